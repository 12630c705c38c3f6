// What both JavaScript clients do against a router that serves tests/interop/app.
//
// `run(connect, can)` takes a client as an adapter. `connect({ method, authid, secret, realm })` resolves to
//   { welcome: { session, authid, authrole, authmethod },
//     call(uri, args, kwargs, { onProgress, …options }) -> { args, kwargs }, with a `cancel(mode)`,
//     publish(uri, args, kwargs, options) -> publication id,
//     subscribe(uri, (args, kwargs, details) => …, options) -> () => unsubscribed, with the subscription's `id`,
//     register(uri, ({ args, kwargs, details, progress }) => { args, kwargs }, options) -> () => unregistered, with
//       the registration's `id`; `progress(args, kwargs)` is null where the caller wants none,
//     stream(uri, args, onProgress) -> { send(args, last), result } of a call in chunks, after a login with `streaming`
//       (a login with `progressive` announces progressive results, where the client has to be told to),
//     closed: the reason it ended with,
//     bye() }
// and everything fails with a WampError. `can` says what the client's serializer carries (`binary`; integers beyond
// 2^53: `receiveBig`, `sendBig`) and what the client lets its user do (`excludeMe`: to send `exclude_me = false`;
// `retain`; `concurrency`; `revoked`: to lose a subscription; `cancelModes` other than kill; `stream`; `passthru`).

import assert from "node:assert/strict";
import { features } from "./features.mjs";
import { GUEST, Inbox, MEMBER, WampError, equal, failure, soon } from "./steps.mjs";

function logins(connect) {
  const welcomed = async (login, expected) => {
    const client = await soon(connect(login), "WELCOME");
    const { authmethod, authid, authrole } = client.welcome;
    equal({ authmethod, authrole, ...(login.authid ? { authid } : {}) }, expected);
    await soon(client.bye(), "the close");
  };
  return {
    async anonymous() {
      await welcomed(GUEST, { authmethod: "anonymous", authrole: "guest" });
    },
    async ticket() {
      for (const authid of ["joe", "lua-joe"]) {
        const expected = { authmethod: "ticket", authid, authrole: "member" };
        await welcomed({ ...MEMBER, authid, secret: `${authid}'s ticket` }, expected);
      }
    },
    async wampcra() {
      const secrets = {
        ann: "ann's secret",
        sal: "salted secret",
        sue: "sue's password",
        "lua-ann": "lua-ann's secret",
      };
      for (const [authid, secret] of Object.entries(secrets)) {
        const expected = { authmethod: "wampcra", authid, authrole: "member" };
        await welcomed({ ...MEMBER, method: "wampcra", authid, secret }, expected);
      }
    },
    async cryptosign() {
      // The private keys of tests/interop/app.
      for (const [authid, key] of [["hub", "01"], ["lua-hub", "02"]]) {
        const expected = { authmethod: "cryptosign", authid, authrole: "member" };
        await welcomed({ ...MEMBER, method: "cryptosign", authid, secret: key.repeat(32) }, expected);
      }
    },
    async wrongSecret() {
      for (const [method, authid, secret] of [
        ["ticket", "joe", "a guess"],
        ["ticket", "lua-joe", "a guess"],
        ["wampcra", "ann", "a guess"],
        ["wampcra", "sal", "a guess"],
        ["cryptosign", "hub", "02".repeat(32)],
        ["cryptosign", "lua-hub", "01".repeat(32)],
      ]) {
        const { uri } = await failure(connect({ ...MEMBER, method, authid, secret }));
        equal(uri, "wamp.error.authentication_denied");
      }
    },
    async unknownRealm() {
      const { uri } = await failure(connect({ ...GUEST, realm: "nowhere" }));
      equal(uri, "wamp.error.no_such_realm");
    },
  };
}

function calls(me, can) {
  const call = (uri, args, kwargs, options) => soon(me.call(uri, args, kwargs, options), uri);
  const single = async (uri, ...args) => (await call(uri, args)).args[0];
  return {
    async plainResult() {
      equal(await single("interop.add", 2, 3), 5);
      equal(await single("interop.add", 0.25, 0.5), 0.75);
      await call("interop.nothing");
    },
    async severalResults() {
      equal(await call("interop.many"), { args: [1, "two", true], kwargs: { three: 3 } });
    },
    async argumentsAndKeywords() {
      const sent = { args: [1, "two", [3, { four: 5.5 }]], kwargs: { yes: true, no: false } };
      equal(await call("interop.echo", sent.args, sent.kwargs), sent);
    },
    async kindsSent() {
      const containers = [[], {}, [[], {}], { map: {} }, { list: [] }, [null, null]];
      const sent = [null, ...containers, true, "Größe ☾ 🌒 \0", 2 ** 53, -1.5];
      equal((await call("interop.echo", sent)).args, sent);
      for (const value of sent) {
        equal(JSON.parse(await single("interop.as_json", value)), value);
      }
    },
    async longText() {
      // Long enough to be compressed; repeated, as with context takeover only the second refers to the first.
      const text = "a kitchen, a hall and a garden; ".repeat(1000);
      for (let i = 0; i < 2; i += 1) equal(await single("interop.echo", text), text);
    },
    async kindsReceived() {
      const { args } = await call("interop.kinds");
      equal(args, ["Mondnähe ☾ 🌒", null, [], {}, [[], {}], 2 ** 53, 0.5]);
    },
    async bigIntegers() {
      const { args } = await call("interop.big");
      const expected = [2n ** 53n + 1n, -(2n ** 63n) + 1n, 2n ** 64n - 1n];
      if (can.receiveBig) equal(args, expected);
      else equal(args.map(Number), expected.map(Number)); // rounded by the client
      if (!can.sendBig) return;
      for (const number of [2n ** 53n + 1n, -(2n ** 53n) - 1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 64n - 1n]) {
        equal(await single("interop.as_json", number), number.toString());
        if (can.receiveBig) equal(await single("interop.echo", number), number);
      }
    },
    async binary() {
      if (!can.binary) return equal(await single("interop.binary"), "\0AAH+/w=="); // as JSON carries it
      const octets = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
      equal(await single("interop.echo", octets), octets);
      equal(await single("interop.size", octets), 256);
      equal(await single("interop.binary"), Buffer.from([0, 1, 254, 255]));
    },
    async raisedError() {
      const { uri, args, kwargs } = await failure(me.call("interop.fail", [7]));
      equal({ uri, args, kwargs }, { uri: "interop.error.refused", args: ["no", 7], kwargs: { why: "asked to" } });
      const crash = await failure(me.call("interop.crash"));
      equal(crash.uri, "wamp.error.runtime_error");
      assert(!crash.message.includes("procedures.lua"), `tells where it happened: ${crash.message}`);
      equal((await failure(me.call("interop.not_there"))).uri, "wamp.error.no_such_procedure");
    },
    async progressiveResults() {
      const seen = [];
      const onProgress = ({ args, kwargs }) => seen.push([args[0], kwargs.left]);
      equal((await call("interop.count", [4], undefined, { onProgress })).args, ["done"]);
      equal(seen, [[1, 3], [2, 2], [3, 1], [4, 0]]);
    },
    async cancelledCall() {
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.topic.cancelled", inbox.put));
      const onProgress = () => waiting.cancel("kill");
      const waiting = me.call("interop.wait", [42], undefined, { onProgress });
      equal((await failure(waiting)).uri, "wamp.error.canceled");
      equal((await inbox.next()).args, [42]);
      await soon(unsubscribe());
    },
    async callCancelledAtOnce() {
      for (let i = 0; i < 20; i += 1) {
        const waiting = me.call("interop.wait", [i]);
        waiting.cancel("kill");
        equal((await failure(waiting)).uri, "wamp.error.canceled");
      }
    },
    async timedOutCall() {
      equal((await failure(me.call("interop.wait", [43], undefined, { timeout: 30 }))).uri, "wamp.error.timeout");
    },
    async disclosedCaller() {
      const { kwargs } = await call("interop.whoami");
      equal(kwargs, { session: me.welcome.session, authid: "joe", authrole: "member" });
    },
  };
}

function events(connect, me, can) {
  return {
    async published() {
      const other = await connect(MEMBER);
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.topic.news", inbox.put));
      const sent = { args: [1, null, "ø"], kwargs: { deep: { list: [] } } };
      const publication = await soon(other.publish("interop.topic.news", sent.args, sent.kwargs));
      const { args, kwargs, details } = await inbox.next();
      equal({ args, kwargs }, sent);
      if (details.publication !== undefined) equal(details.publication, publication);
      equal([details.publisher, details.publisher_authid], [other.welcome.session, "joe"]);
      await soon(unsubscribe());
      await soon(other.publish("interop.topic.news", [2]));
      await soon(me.call("interop.nothing")); // an event would have come before this answer
      assert(inbox.empty, "an event after UNSUBSCRIBED");
      await soon(other.bye());
    },
    async ownEvents() {
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.topic.own", inbox.put));
      await soon(me.publish("interop.topic.own", ["excluded"]));
      if (can.excludeMe) {
        await soon(me.publish("interop.topic.own", ["included"], undefined, { exclude_me: false }));
        equal((await inbox.next()).args, ["included"]);
      }
      await soon(me.call("interop.nothing"));
      assert(inbox.empty, "the publisher got its own event");
      await soon(unsubscribe());
    },
    async chosenReceivers() {
      const other = await connect(MEMBER);
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.topic.chosen", inbox.put));
      const mine = me.welcome.session;
      await soon(other.publish("interop.topic.chosen", ["for me"], undefined, { eligible: [mine] }));
      await soon(other.publish("interop.topic.chosen", ["not for me"], undefined, { exclude: [mine] }));
      await soon(other.publish("interop.topic.chosen", ["for guests"], undefined, { exclude_authrole: ["member"] }));
      await soon(other.publish("interop.topic.chosen", ["for all"]));
      equal([(await inbox.next()).args, (await inbox.next()).args], [["for me"], ["for all"]]);
      await soon(unsubscribe());
      await soon(other.bye());
    },
    async patterns() {
      const other = await connect(MEMBER);
      for (const [match, topic] of [["prefix", "interop.topic.pat"], ["wildcard", "interop..pattern.news"]]) {
        const inbox = new Inbox();
        const unsubscribe = await soon(me.subscribe(topic, inbox.put, { match }));
        await soon(other.publish("interop.topic.pattern.news", [match]));
        const { args, details } = await inbox.next();
        equal([args, details.topic], [[match], "interop.topic.pattern.news"]);
        await soon(unsubscribe());
      }
      await soon(other.bye());
    },
    async scriptPublishes() {
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.topic.script", inbox.put));
      await soon(me.call("interop.publish", ["interop.topic.script", 1, []], { key: {} }));
      const { args, kwargs } = await inbox.next();
      equal({ args, kwargs }, { args: [1, []], kwargs: { key: {} } });
      await soon(unsubscribe());
    },
    async scriptSubscribes() {
      const inbox = new Inbox();
      const unsubscribe = await soon(me.subscribe("interop.heard", inbox.put));
      await soon(me.publish("interop.note.today", ["a", null], { key: [1] }));
      const { args, kwargs } = await inbox.next();
      const expected = { topic: "interop.note.today", publisher: me.welcome.session, kwargs: { key: [1] } };
      equal({ args, kwargs }, { args: ["a", null], kwargs: expected });
      await soon(unsubscribe());
    },
  };
}

function procedures(connect, me, can) {
  const empty = { uri: "interop.error.empty", args: ["nothing given"], kwargs: { hint: "give one" } };
  const refuseEmpty = (args) => {
    if (args.length === 0) throw new WampError(empty.uri, empty.args, empty.kwargs);
  };
  return {
    async calledByAClient() {
      const other = await connect(MEMBER);
      const unregister = await soon(me.register("interop.client.reverse", ({ args, kwargs, details }) => {
        refuseEmpty(args);
        return { args: args.reverse(), kwargs: { ...kwargs, caller: details.caller } };
      }));
      const call = other.call("interop.client.reverse", [1, "two", null], { key: "value" });
      equal(await soon(call), { args: [null, "two", 1], kwargs: { key: "value", caller: other.welcome.session } });
      const { uri, args, kwargs } = await failure(other.call("interop.client.reverse", []));
      equal({ uri, args, kwargs }, empty);
      await soon(unregister());
      equal((await failure(other.call("interop.client.reverse"))).uri, "wamp.error.no_such_procedure");
      await soon(other.bye());
    },
    async streamsToAClient() {
      // Both announce no call_canceling.
      const [other, callee] = [await connect(MEMBER), await connect({ ...MEMBER, progressive: true })];
      await soon(callee.register("interop.client.count", ({ args: [to], progress }) => {
        for (let i = 1; progress && i <= to; i += 1) progress([i], { left: to - i });
        return { args: [progress ? "streamed" : "at once"] };
      }));
      const seen = [];
      const onProgress = ({ args, kwargs }) => seen.push([args[0], kwargs.left]);
      equal((await soon(other.call("interop.client.count", [3], undefined, { onProgress }))).args, ["streamed"]);
      equal(seen, [[1, 2], [2, 1], [3, 0]]);
      equal((await soon(other.call("interop.client.count", [3]))).args, ["at once"]);
      await soon(callee.bye());
      await soon(other.bye());
    },
    async calledByAScript() {
      const unregister = await soon(me.register("interop.client.same", ({ args, kwargs }) => {
        refuseEmpty(args);
        return { args, kwargs };
      }));
      const sent = { args: [1, "ø", null, [], {}, { deep: [{}] }], kwargs: { key: [[]] } };
      if (can.receiveBig && can.sendBig) sent.args.push(2n ** 53n + 1n);
      if (can.binary) sent.args.push(Buffer.from([0, 255]));
      equal(await soon(me.call("interop.relay", ["interop.client.same", ...sent.args], sent.kwargs)), sent);
      const { uri, args, kwargs } = await failure(me.call("interop.relay", ["interop.client.same"]));
      equal({ uri, args, kwargs }, empty);
      const caught = await soon(me.call("interop.relay_caught", ["interop.client.same"]));
      equal(caught, { args: [false], kwargs: empty });
      await soon(unregister());
    },
    async guestsMayNotRegister() {
      const guest = await connect(GUEST);
      equal((await soon(guest.call("interop.add", [1, 1]))).args, [2]);
      equal((await failure(guest.register("interop.client.guest", () => ({})))).uri, "wamp.error.not_authorized");
      equal((await failure(guest.publish("interop.topic.news", ["a"]))).uri, "wamp.error.not_authorized");
      await soon(guest.bye());
    },
  };
}

export async function run(connect, can) {
  const me = await soon(connect(MEMBER), "WELCOME");
  const steps = {
    ...logins(connect),
    ...calls(me, can),
    ...events(connect, me, can),
    ...procedures(connect, me, can),
    ...features(connect, me, can),
  };
  let failed = 0;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
  await soon(me.bye());
  console.log(`${Object.keys(steps).length - failed} steps passed, ${failed} failed`);
  process.exit(failed > 0 ? 1 : 0);
}
