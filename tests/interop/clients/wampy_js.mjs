// wampy.js against a router that serves tests/interop/app: `wampy_js.mjs ws://… json|msgpack|cbor`,
// or `wss://…` with a CA of NODE_EXTRA_CA_CERTS.
//
// Not here because the client cannot: SCRAM, any transport but WebSocket, batches; to publish with `retain` (it drops
// it), `concurrency`, to be cancelled as a callee, to lose a subscription or registration to the meta API (it takes the
// message for an answer).

import { Wampy } from "wampy";
import { CborSerializer } from "wampy/CborSerializer.js";
import { JsonSerializer } from "wampy/JsonSerializer.js";
import { MsgpackSerializer } from "wampy/MsgpackSerializer.js";
import { sign as signWithKey } from "wampy/cryptosign.js";
import { sign } from "wampy/wampcra.js";
import websocket from "websocket";
import { run } from "./scenario.mjs";
import { PUBLIC_KEYS, WampError } from "./steps.mjs";

const [url, serializer] = process.argv.slice(2);
const serializers = { json: JsonSerializer, msgpack: MsgpackSerializer, cbor: CborSerializer };

const raised = (error) => {
  if (error.errorUri) throw new WampError(error.errorUri, error.argsList, error.argsDict);
  throw error;
};

const result = ({ argsList, argsDict }) => ({ args: argsList ?? [], kwargs: argsDict ?? {} });
const payload = (args, kwargs) => (args || kwargs ? { argsList: args, argsDict: kwargs } : undefined);

function adapt(wampy, details, closed) {
  return {
    welcome: { ...details, session: wampy.getSessionId() },
    closed,
    call(uri, args, kwargs, { onProgress, ...options } = {}) {
      if (onProgress) options.progress_callback = (value) => onProgress(result(value));
      const call = wampy.call(uri, payload(args, kwargs), options);
      const { reqId } = wampy.getOpStatus();
      const answer = call.then(result, raised);
      answer.cancel = (mode) => wampy.cancel(reqId, { mode });
      return answer;
    },
    stream(uri, args, onProgress) {
      const options = { progress_callback: (value) => onProgress(result(value)) };
      const call = wampy.progressiveCall(uri, args, options);
      return { send: (more, last) => call.sendData(more, { progress: !last }), result: call.result.then(result, raised) };
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
      const unsubscribe = async () => options ?? wampy.unsubscribe(subscriptionId);
      return Object.assign(unsubscribe, { id: subscriptionId });
    },
    async register(uri, handler, options) {
      const endpoint = async (invocation) => {
        const { args, kwargs } = result(invocation);
        const { details, result_handler: yields } = invocation;
        const progress = details.receive_progress
          ? (argsList, argsDict) => yields({ argsList, argsDict, options: { progress: true } })
          : null;
        try {
          const answer = await handler({ args, kwargs, details, progress });
          return { argsList: answer.args, argsDict: answer.kwargs, options: answer.options };
        } catch (error) {
          throw { error: error.uri, argsList: error.args, argsDict: error.kwargs };
        }
      };
      const { registrationId } = await wampy.register(uri, endpoint, options).catch(raised);
      return Object.assign(() => wampy.unregister(uri), { id: registrationId });
    },
    bye: () => wampy.disconnect(),
  };
}

// Calls in chunks are there, but without this HELLO does not announce them, and using them would be a violation.
function announceStreams({ roles: { caller, callee } }) {
  caller.features.progressive_call_invocations = true;
  Object.assign(callee.features, {
    progressive_call_invocations: true,
    progressive_call_results: true,
    call_canceling: true,
  });
}

// The same of the results of a callee; it gives them all the same.
function announceProgress({ roles: { callee } }) {
  callee.features.progressive_call_results = true;
}

const answers = { ticket: (secret) => () => secret, wampcra: sign, cryptosign: signWithKey };

async function connect({ method, authid, secret, realm, streaming, progressive }) {
  const login = { authid, authmethods: [method], onChallenge: answers[method]?.(secret) };
  if (method === "cryptosign") login.authextra = { pubkey: PUBLIC_KEYS[secret] };
  let close;
  const closed = new Promise((left) => (close = left));
  const wampy = new Wampy(url, {
    realm,
    ws: websocket.w3cwebsocket,
    serializer: new serializers[serializer](),
    payloadSerializers: { cbor: new CborSerializer() },
    autoReconnect: false,
    onClose: () => close(),
    ...(authid ? login : {}),
  });
  if (streaming) announceStreams(wampy._wamp_features);
  if (progressive) announceProgress(wampy._wamp_features);
  return adapt(wampy, await wampy.connect().catch(raised), closed);
}

await run(connect, {
  binary: serializer !== "json",
  receiveBig: serializer === "msgpack", // its CBOR reads every integer as a number
  sendBig: serializer !== "json",
  excludeMe: false, // a false `exclude_me` is not sent at all
  cancelModes: ["kill", "killnowait", "skip"],
  stream: true,
  passthru: serializer !== "json", // its JSON does not write bytes as WAMP does
});
