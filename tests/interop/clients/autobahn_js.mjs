// autobahn-js against a router that serves tests/interop/app: `autobahn_js.mjs ws://… json|msgpack|cbor`,
// `rs://… json` or `http://…/lp json`; `wss`, `https` with a CA of NODE_EXTRA_CA_CERTS.
//
// Not here because the client cannot: SCRAM, batches, RawSocket over TLS or with another serializer, the router's
// answer to a CANCEL of another mode than kill (a violation to it), calls in chunks, payload passthru, its own
// tlsConfiguration (it would trust any certificate).

import autobahn from "autobahn";
import { run } from "./scenario.mjs";
import { WampError } from "./steps.mjs";

const [url, serializer] = process.argv.slice(2);
autobahn.log.warn = () => {}; // it tells of each close
const { JSONSerializer, MsgpackSerializer, CBORSerializer } = autobahn.serializer;
const serializers = { json: JSONSerializer, msgpack: MsgpackSerializer, cbor: CBORSerializer };
// What autobahn-js expects of a browser for long-poll. Its sends do not wait for each other; here they keep their order.
let sent = Promise.resolve();
globalThis.XMLHttpRequest ??= class {
  headers = {};
  open(method, url) {
    Object.assign(this, { method, url });
  }
  setRequestHeader(name, value) {
    this.headers[name] = value;
  }
  send(body) {
    const ask = () => fetch(this.url, { method: this.method, headers: this.headers, body });
    const asked = this.url.endsWith("/receive") ? ask() : (sent = sent.then(ask, ask));
    const done = (status, responseText) => {
      Object.assign(this, { readyState: 4, status, responseText });
      this.onreadystatechange();
    };
    asked.then(async (answer) => done(answer.status, await answer.text()), () => done(0, ""));
  }
};

// Long-poll and RawSocket are JSON, one message at a time.
function transport() {
  const { protocol, hostname, port } = new URL(url);
  if (protocol.startsWith("http")) return { transports: [{ type: "longpoll", url }] };
  if (protocol === "rs:") return { transports: [{ type: "rawsocket", host: hostname, port: Number(port) }] };
  return { url, serializers: [new serializers[serializer]()] };
}

// The client's code for cryptosign takes `nacl` for a global, and its key from a browser's storage.
globalThis.nacl = autobahn.nacl;
const keyPair = (seed) => autobahn.nacl.sign.keyPair.fromSeed(Buffer.from(seed, "hex"));

function sign(secret, method, extra) {
  if (method === "ticket") return secret;
  if (method === "cryptosign") return autobahn.auth_cryptosign.sign_challenge(keyPair(secret), extra);
  const { salt, iterations, keylen, challenge } = extra;
  const key = salt ? autobahn.auth_cra.derive_key(secret, salt, iterations, keylen) : secret;
  return autobahn.auth_cra.sign(key, challenge);
}

const raised = (error) => {
  if (error instanceof autobahn.Error) throw new WampError(error.error, error.args, error.kwargs);
  throw error;
};

// The client hands over a single positional result bare, and none as null.
const result = (value) => {
  const { args, kwargs } = value instanceof autobahn.Result ? value : new autobahn.Result([value]);
  return { args, kwargs };
};

function adapt(connection, session, details, closed) {
  return {
    welcome: { ...details, session: session.id },
    closed,
    call(uri, args, kwargs, { onProgress, ...options } = {}) {
      if (onProgress) options.receive_progress = true;
      const call = session.call(uri, args, kwargs, options);
      const settled = new Promise((resolve, reject) => {
        call.then(resolve, reject, (value) => onProgress(result(value)));
      });
      const answer = settled.then(result, raised);
      answer.cancel = (mode) => call.cancel({ mode });
      return answer;
    },
    async publish(uri, args, kwargs, options = {}) {
      const publication = await session.publish(uri, args, kwargs, { acknowledge: true, ...options }).then(null, raised);
      return publication.id;
    },
    async subscribe(uri, handler, options = {}) {
      const subscription = await session.subscribe(uri, handler, options).then(null, raised);
      return Object.assign(() => session.unsubscribe(subscription), { id: subscription.id });
    },
    async register(uri, handler, options) {
      const endpoint = async (args, kwargs, details) => {
        try {
          const answer = await handler({ args, kwargs, details, progress: details.progress });
          return new autobahn.Result(answer.args, answer.kwargs);
        } catch (error) {
          throw new autobahn.Error(error.uri, error.args, error.kwargs);
        }
      };
      const registration = await session.register(uri, endpoint, options).then(null, raised);
      return Object.assign(() => session.unregister(registration), { id: registration.id });
    },
    bye() {
      connection.close();
      return closed;
    },
  };
}

function connect({ method, authid, secret, realm }) {
  const connection = new autobahn.Connection({
    ...transport(),
    realm,
    authmethods: [method],
    authid,
    authextra: method === "cryptosign" ? { pubkey: autobahn.auth_cryptosign.public_key(keyPair(secret)) } : undefined,
    onchallenge: (_session, offered, extra) => sign(secret, offered, extra),
    on_user_error: () => {}, // an endpoint that raises is part of the scenario
    max_retries: 0,
  });
  return new Promise((resolve, reject) => {
    const closed = new Promise((left) => {
      connection.onclose = (reason, details) => {
        left(details.reason);
        reject(new WampError(details.reason ?? reason, [details.message]));
        return true; // no reconnect
      };
    });
    connection.onopen = (session, details) => resolve(adapt(connection, session, details, closed));
    connection.open();
  });
}

await run(connect, {
  binary: serializer !== "json",
  receiveBig: serializer === "cbor",
  sendBig: false, // its CBOR writes a BigInt as a bignum (tag 2), which is not WAMP's integer; its MessagePack knows none
  excludeMe: true,
  retain: true,
  concurrency: true,
  revoked: true,
  cancelModes: ["kill"],
});
