// wampy.js against a router that serves tests/interop/app: `wampy_js.mjs ws://… json|msgpack|cbor`.

import { Wampy } from "wampy";
import { CborSerializer } from "wampy/CborSerializer.js";
import { JsonSerializer } from "wampy/JsonSerializer.js";
import { MsgpackSerializer } from "wampy/MsgpackSerializer.js";
import { sign } from "wampy/wampcra.js";
import websocket from "websocket";
import { WampError, run } from "./scenario.mjs";

const [url, serializer] = process.argv.slice(2);
const serializers = { json: JsonSerializer, msgpack: MsgpackSerializer, cbor: CborSerializer };

const raised = (error) => {
  if (error.errorUri) throw new WampError(error.errorUri, error.argsList, error.argsDict);
  throw error;
};

const result = ({ argsList, argsDict }) => ({ args: argsList ?? [], kwargs: argsDict ?? {} });
const payload = (args, kwargs) => (args || kwargs ? { argsList: args, argsDict: kwargs } : undefined);

function adapt(wampy, details) {
  return {
    welcome: { ...details, session: wampy.getSessionId() },
    call(uri, args, kwargs, { onProgress, timeout } = {}) {
      const progress_callback = onProgress && ((value) => onProgress(result(value)));
      const options = { ...(progress_callback && { progress_callback }), ...(timeout && { timeout }) };
      const call = wampy.call(uri, payload(args, kwargs), options);
      const { reqId } = wampy.getOpStatus();
      const answer = call.then(result, raised);
      answer.cancel = (mode) => wampy.cancel(reqId, { mode });
      return answer;
    },
    async publish(uri, args, kwargs, options = {}) {
      const { publicationId } = await wampy.publish(uri, payload(args, kwargs), options).catch(raised);
      return publicationId;
    },
    async subscribe(uri, handler, options) {
      const onEvent = (event) => {
        const { args, kwargs } = result(event);
        handler(args, kwargs, event.details);
      };
      const { subscriptionId } = await wampy.subscribe(uri, onEvent, options).catch(raised);
      // The client trips over the UNSUBSCRIBED of a subscription that had options.
      return async () => options ?? wampy.unsubscribe(subscriptionId);
    },
    async register(uri, handler) {
      const endpoint = (invocation) => {
        const { args, kwargs } = result(invocation);
        try {
          const answer = handler({ args, kwargs, details: invocation.details });
          return { argsList: answer.args, argsDict: answer.kwargs };
        } catch (error) {
          throw { error: error.uri, argsList: error.args, argsDict: error.kwargs };
        }
      };
      await wampy.register(uri, endpoint).catch(raised);
      return () => wampy.unregister(uri);
    },
    bye: () => wampy.disconnect(),
  };
}

async function connect({ method, authid, secret, realm }) {
  const login = { authid, authmethods: [method], onChallenge: method === "ticket" ? () => secret : sign(secret) };
  const wampy = new Wampy(url, {
    realm,
    ws: websocket.w3cwebsocket,
    serializer: new serializers[serializer](),
    autoReconnect: false,
    ...(authid ? login : {}),
  });
  return adapt(wampy, await wampy.connect().catch(raised));
}

// Its CBOR reads every integer as a number; a false `exclude_me` is not sent at all.
const receiveBig = serializer === "msgpack";
await run(connect, { binary: serializer !== "json", receiveBig, sendBig: serializer !== "json", excludeMe: false });
