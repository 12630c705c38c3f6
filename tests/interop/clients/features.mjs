// Steps of the advanced profile, as far as a JavaScript client knows it (`can`); run by scenario.mjs.
//
// Sessions of their own subscribe and register here, and leave: wampy.js cannot give back every pattern.

import assert from "node:assert/strict";
import { GUEST, Inbox, MEMBER, equal, failure, soon } from "./steps.mjs";

const ANN = { method: "wampcra", authid: "ann", secret: "ann's secret", realm: "interop" };

// A promise and what resolves it.
function promised() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}

// Runs a step with sessions of these logins, and closes those that are still there.
function using(connect, logins, step) {
  return async () => {
    const sessions = [];
    for (const login of logins) sessions.push(await soon(connect(login), "WELCOME"));
    await step(...sessions);
    for (const session of sessions) await soon(session.bye(), "the close");
  };
}

// No event, which would have come before the answer.
async function nothingMore(client, inbox) {
  await soon(client.call("interop.nothing"));
  assert(inbox.empty, "an event too many");
}

function calls(connect, me, can) {
  const single = async (uri, args, kwargs, options) => (await soon(me.call(uri, args, kwargs, options), uri)).args[0];
  return {
    async disclosedOnRequest() {
      equal(await single("interop.quiet.whoami"), null);
      equal(await single("interop.quiet.whoami", [], {}, { disclose_me: true }), me.welcome.session);
    },
    cancelModes: using(connect, [MEMBER], async (other) => {
      for (const mode of can.cancelModes) {
        const [begun, held] = [promised(), promised()];
        const unregister = await soon(other.register("interop.client.slow", async () => {
          begun.resolve();
          await held.promise;
          return { args: ["too late"] };
        }));
        const call = me.call("interop.client.slow");
        await soon(begun.promise);
        call.cancel(mode);
        equal((await failure(call)).uri, "wamp.error.canceled");
        held.resolve();
        await soon(unregister());
      }
    }),
    patternRegistrations: using(connect, [MEMBER], async (other) => {
      const endpoint = ({ details }) => ({ args: [details.procedure] });
      await soon(other.register("interop.client.pat", endpoint, { match: "prefix" }));
      await soon(other.register("interop..wild.two", endpoint, { match: "wildcard" }));
      for (const procedure of ["interop.client.pattern.one", "interop.client.wild.two"]) {
        equal(await single(procedure), procedure);
      }
    }),
    async sharedRegistration() {
      for (const [invoke, expected] of [["roundrobin", "abab"], ["first", "aaaa"], ["last", "bbbb"]]) {
        await using(connect, [MEMBER, MEMBER], async (a, b) => {
          await soon(a.register("interop.client.shared", () => ({ args: ["a"] }), { invoke }));
          await soon(b.register("interop.client.shared", () => ({ args: ["b"] }), { invoke }));
          let answers = "";
          for (let i = 0; i < 4; i += 1) answers += await single("interop.client.shared");
          equal(answers, expected);
          const { uri } = await failure(me.register("interop.client.shared", () => ({ args: [] })));
          equal(uri, "wamp.error.procedure_already_exists");
        })();
      }
    },
    concurrency: using(connect, [MEMBER], async (other) => {
      let running = 0;
      let most = 0;
      const endpoint = async ({ args }) => {
        running += 1;
        most = Math.max(most, running);
        await soon(other.call("interop.nothing"));
        running -= 1;
        return { args };
      };
      await soon(other.register("interop.client.narrow", endpoint, { concurrency: 2 }));
      const numbers = [0, 1, 2, 3, 4, 5, 6, 7];
      equal(await Promise.all(numbers.map((number) => single("interop.client.narrow", [number]))), numbers);
      equal(most, 2);
    }),
    async inputInChunks() {
      const streaming = { ...MEMBER, streaming: true };
      await using(connect, [streaming, streaming], async (caller, callee) => {
        let sum = 0;
        await soon(callee.register("interop.client.sum", ({ args, details }) => {
          sum += args[0];
          return { args: [sum], options: details.progress ? { progress: true } : {} };
        }));
        const sums = new Inbox();
        const { send, result } = caller.stream("interop.client.sum", [1], ({ args }) => sums.put(args));
        equal((await sums.next()).args, [1]);
        send([2], false);
        equal((await sums.next()).args, [3]);
        send([4], true);
        equal((await soon(result)).args, [7]);
      })();
    },
    passthru: using(connect, [MEMBER], async (other) => {
      const options = { ppt_scheme: "x_interop", ppt_serializer: "cbor", ppt_keyid: "key 1" };
      const sent = { args: [1, Buffer.from([0, 255])], kwargs: { deep: [{}] } };
      await soon(other.register("interop.client.sealed", ({ args, kwargs, details }) => {
        equal([details.ppt_scheme, details.ppt_serializer, details.ppt_keyid], Object.values(options));
        return { args, kwargs, options };
      }));
      equal(await soon(me.call("interop.client.sealed", sent.args, sent.kwargs, options)), sent);
      const inbox = new Inbox();
      await soon(other.subscribe("interop.topic.sealed", inbox.put));
      await soon(me.publish("interop.topic.sealed", sent.args, sent.kwargs, options));
      const { args, kwargs, details } = await inbox.next();
      equal({ args, kwargs }, sent);
      equal([details.ppt_scheme, details.ppt_serializer, details.ppt_keyid], Object.values(options));
    }),
  };
}

function events(connect, me, can) {
  return {
    publisherDisclosedOnRequest: using(connect, [MEMBER], async (other) => {
      const inbox = new Inbox();
      await soon(other.subscribe("interop.quiet.topic", inbox.put));
      await soon(me.publish("interop.quiet.topic", ["unnamed"]));
      await soon(me.publish("interop.quiet.topic", ["named"], {}, { disclose_me: true }));
      equal((await inbox.next()).details.publisher, undefined);
      equal((await inbox.next()).details.publisher, me.welcome.session);
    }),
    chosenByName: using(connect, [MEMBER, GUEST, ANN], async (member, guest, publisher) => {
      const [members, guests] = [new Inbox(), new Inbox()];
      await soon(member.subscribe("interop.topic.named", members.put));
      await soon(guest.subscribe("interop.topic.named", guests.put));
      for (const [text, lists] of [
        ["to joe", { eligible_authid: ["joe"] }],
        ["not to joe", { exclude_authid: ["joe"] }],
        ["to guests", { eligible_authrole: ["guest"] }],
        ["not to guests", { exclude_authrole: ["guest"] }],
        ["to guests again", { eligible_authrole: ["guest", "member"], exclude_authid: ["joe"] }],
        ["to all", {}],
      ]) {
        await soon(publisher.publish("interop.topic.named", [text], undefined, lists));
      }
      for (const [inbox, expected] of [
        [members, ["to joe", "not to guests", "to all"]],
        [guests, ["not to joe", "to guests", "to guests again", "to all"]],
      ]) {
        for (const text of expected) equal((await inbox.next()).args, [text]);
      }
    }),
    async retainedEvent() {
      const sent = { args: ["kept", null], kwargs: { deep: [{}] } };
      const retain = can.retain
        ? (topic) => me.publish(topic, sent.args, sent.kwargs, { retain: true })
        : (topic) => me.call("interop.retain", [topic, ...sent.args], sent.kwargs);
      await soon(retain("interop.topic.retained"));
      await soon(me.publish("interop.topic.retained", ["not kept"]));
      for (const [match, topic] of [["exact", "interop.topic.retained"], ["prefix", "interop.topic.ret"]]) {
        await using(connect, [MEMBER], async (other) => {
          const inbox = new Inbox();
          await soon(other.subscribe(topic, inbox.put, { match, get_retained: true }));
          const { args, kwargs, details } = await inbox.next();
          equal({ args, kwargs, retained: details.retained }, { ...sent, retained: true });
          await nothingMore(other, inbox);
        })();
      }
      await using(connect, [MEMBER], async (other) => {
        const inbox = new Inbox();
        await soon(other.subscribe("interop.topic.retained", inbox.put));
        await nothingMore(other, inbox);
      })();
    },
    eventHistory: using(connect, [MEMBER], async (other) => {
      const { id } = await soon(other.subscribe("interop.topic.kept", () => {}, { match: "prefix" }));
      const published = [];
      for (const i of [0, 1, 2]) published.push(await soon(me.publish("interop.topic.kept.today", [i], { key: [i] })));
      const history = async (kwargs) => (await soon(other.call("wamp.subscription.get_events", [id], kwargs))).args;
      const events = (await history()).slice(-3);
      equal(events.map((event) => event.publication), published);
      equal(events.map(({ args, kwargs }) => [args, kwargs]), [0, 1, 2].map((i) => [[i], { key: [i] }]));
      const newest = await history({ reverse: true, limit: 2 });
      equal(newest.map((event) => event.publication), [published[2], published[1]]);
    }),
  };
}

function meta(connect, me) {
  const ask = async (procedure, ...args) => (await soon(me.call(procedure, args), procedure)).args[0];
  return {
    testaments: using(connect, [MEMBER], async (heir) => {
      const inbox = new Inbox();
      await soon(heir.subscribe("interop.topic.testament", inbox.put));
      const other = await soon(connect(ANN));
      for (const words of ["taken back", "last"]) {
        await soon(other.call("wamp.session.flush_testaments"));
        await soon(other.call("wamp.session.add_testament", ["interop.topic.testament", [words], { key: null }]));
      }
      await soon(other.bye());
      const { args, kwargs } = await inbox.next();
      equal({ args, kwargs }, { args: ["last"], kwargs: { key: null } });
      await nothingMore(heir, inbox);
    }),
    sessionsSeen: using(connect, [MEMBER], async (watcher) => {
      const [joined, left] = [new Inbox(), new Inbox()];
      await soon(watcher.subscribe("wamp.session.on_join", joined.put));
      await soon(watcher.subscribe("wamp.session.on_leave", left.put));
      const other = await soon(connect(ANN));
      const { session } = other.welcome;
      const { authid, authrole, authmethod } = await ask("wamp.session.get", session);
      const expected = { session, authid: "ann", authrole: "member", authmethod: "wampcra" };
      equal({ session, authid, authrole, authmethod }, expected);
      const { args: [details] } = await joined.next();
      equal([details.session, details.authid], [session, "ann"]);
      const listed = (await ask("wamp.session.list")).map(Number);
      assert([me, watcher, other].every(({ welcome }) => listed.includes(Number(welcome.session))), String(listed));
      equal(await ask("wamp.session.count"), listed.length);
      await soon(me.call("wamp.session.kill", [session], { reason: "interop.close.enough" }));
      const reason = await soon(other.closed, "the close");
      if (reason !== undefined) equal(reason, "interop.close.enough"); // wampy.js does not tell
      equal((await left.next()).args.slice(0, 2), [session, "ann"]);
      equal((await failure(me.call("wamp.session.get", [session]))).uri, "wamp.error.no_such_session");
    }),
    registrationsAndSubscriptionsSeen: using(connect, [MEMBER], async (other) => {
      const registration = await soon(other.register("interop.client.seen", () => ({ args: [] })));
      equal(await ask("wamp.registration.lookup", "interop.client.seen"), registration.id);
      const { uri, match, invoke } = await ask("wamp.registration.get", registration.id);
      equal({ uri, match, invoke }, { uri: "interop.client.seen", match: "exact", invoke: "single" });
      equal(await ask("wamp.registration.list_callees", registration.id), [other.welcome.session]);
      const subscription = await soon(other.subscribe("interop.topic.seen", () => {}));
      equal(await ask("wamp.subscription.lookup", "interop.topic.seen"), subscription.id);
      equal(await ask("wamp.subscription.count_subscribers", subscription.id), 1);
    }),
    revoked: using(connect, [MEMBER], async (other) => {
      const inbox = new Inbox();
      const subscription = await soon(other.subscribe("interop.topic.revoked", inbox.put));
      const registration = await soon(other.register("interop.client.revoked", () => ({ args: [] })));
      await ask("wamp.subscription.remove_subscriber", subscription.id, other.welcome.session);
      await ask("wamp.registration.remove_callee", registration.id, other.welcome.session);
      await soon(me.publish("interop.topic.revoked"));
      equal((await failure(me.call("interop.client.revoked"))).uri, "wamp.error.no_such_procedure");
      await nothingMore(other, inbox);
    }),
  };
}

export function features(connect, me, can) {
  const { concurrency, stream: inputInChunks, passthru, revoked } = can;
  const able = { concurrency, inputInChunks, passthru, revoked };
  const steps = { ...calls(connect, me, can), ...events(connect, me, can), ...meta(connect, me) };
  return Object.fromEntries(Object.entries(steps).filter(([name]) => able[name] ?? !(name in able)));
}
