"""Steps of the advanced profile, as far as autobahn-python knows it; run by autobahn_python.py.

Not here because the client cannot: progressive call invocations, `disclose_me`, the modes of CANCEL (it sends none),
a time-out below a second (it says seconds, and sends the number as WAMP's milliseconds), payload passthru (its payload
codecs and cryptobox speak the older `enc_algo`, a bare byte string in place of the arguments), sharding, to lose a
subscription to `wamp.subscription.remove_subscriber` (it announces that it can, but takes the UNSUBSCRIBED for a
violation and leaves). Its `force_reregister` is Crossbar.io's, not WAMP's.
"""

import asyncio

from autobahn.wamp.types import CallOptions, PublishOptions, RegisterOptions, SubscribeOptions
from autobahn_sessions import DETAILS, Inbox, connect, equal, failure, soon, step

ACKNOWLEDGED = PublishOptions(acknowledge=True)

# Calls


@step
async def timed_out_call(me):
    error = await failure(me.call("interop.wait", 43, options=CallOptions(timeout=30)))
    equal(error.error, "wamp.error.timeout")


@step
async def cancelled_at_the_callee(me):
    other, begun, cancelled = await connect(), asyncio.Event(), asyncio.Event()

    async def endpoint():
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    registration = await soon(me.register(endpoint, "interop.client.slow"))
    call = other.call("interop.client.slow")
    await soon(begun.wait())
    call.cancel()
    await soon(cancelled.wait())
    await soon(registration.unregister())
    await other.bye()


@step
async def pattern_registrations(me):
    cases = (
        ("prefix", "interop.client.pat", "interop.client.pattern.one"),
        ("wildcard", "interop..wild.two", "interop.client.wild.two"),
    )
    for match, pattern, procedure in cases:
        options = RegisterOptions(match=match, details=True)
        registration = await soon(me.register(lambda details: details.procedure, pattern, options))
        equal(await soon(me.call(procedure)), procedure)
        await soon(registration.unregister())


@step
async def shared_registration(me):
    other = await connect()
    for invoke, expected in (("roundrobin", "abab"), ("first", "aaaa"), ("last", "bbbb")):
        options = RegisterOptions(invoke=invoke)
        registrations = [
            await soon(me.register(lambda: "a", "interop.client.shared", options)),
            await soon(other.register(lambda: "b", "interop.client.shared", options)),
        ]
        equal("".join([await soon(me.call("interop.client.shared")) for _ in range(4)]), expected)
        for registration in registrations:
            await soon(registration.unregister())
    registration = await soon(me.register(lambda: "a", "interop.client.shared"))
    error = await failure(other.register(lambda: "b", "interop.client.shared"))
    equal(error.error, "wamp.error.procedure_already_exists")
    await soon(registration.unregister())
    await other.bye()


@step
async def concurrency(me):
    running, most = 0, 0

    async def endpoint(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await soon(other.call("interop.nothing"))
        running -= 1
        return number

    other = await connect()
    registration = await soon(other.register(endpoint, "interop.client.narrow", RegisterOptions(concurrency=2)))
    calls = [me.call("interop.client.narrow", number) for number in range(8)]
    equal([await soon(call) for call in calls], list(range(8)))
    equal(most, 2)
    await soon(registration.unregister())
    await other.bye()


@step
async def not_named_unless_asked(me):
    # The client cannot ask.
    equal(await soon(me.call("interop.quiet.whoami")), None)
    other, inbox = await connect(), Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.quiet.topic", DETAILS))
    await soon(other.publish("interop.quiet.topic", options=ACKNOWLEDGED))
    _, _, details = await inbox.next()
    equal((details.publisher, details.publisher_authid), (None, None))
    await soon(subscription.unsubscribe())
    await other.bye()


# Events


@step
async def chosen_by_name(me):
    guest, mine, guests = await connect("anonymous", None), Inbox(), Inbox()
    subscription = await soon(me.subscribe(mine, "interop.topic.named", DETAILS))
    await soon(guest.subscribe(guests, "interop.topic.named", DETAILS))
    publisher = await connect("wampcra", "ann", "ann's secret")
    for lists, text in (
        ({"eligible_authid": ["joe"]}, "to joe"),
        ({"exclude_authid": "joe"}, "not to joe"),
        ({"eligible_authrole": "guest"}, "to guests"),
        ({"exclude_authrole": ["guest"]}, "not to guests"),
        ({"eligible_authrole": ["guest", "member"], "exclude_authid": ["joe"]}, "to guests again"),
        ({}, "to all"),
    ):
        await soon(publisher.publish("interop.topic.named", text, options=PublishOptions(acknowledge=True, **lists)))
    equal([(await mine.next())[0][0] for _ in range(3)], ["to joe", "not to guests", "to all"])
    expected = ["not to joe", "to guests", "to guests again", "to all"]
    equal([(await guests.next())[0][0] for _ in range(4)], expected)
    await soon(subscription.unsubscribe())
    await publisher.bye()
    await guest.bye()


@step
async def retained_event(me):
    # The publisher itself is excluded, of its retained event too.
    other = await connect()
    options = PublishOptions(acknowledge=True, retain=True)
    await soon(other.publish("interop.topic.retained", "replaced", options=options))
    publication = await soon(other.publish("interop.topic.retained", "kept", b"\0\xff", deep=[{}], options=options))
    await soon(other.publish("interop.topic.retained", "not kept", options=ACKNOWLEDGED))
    for match, topic in (("exact", "interop.topic.retained"), ("prefix", "interop.topic.ret")):
        inbox = Inbox()
        options = SubscribeOptions(match=match, get_retained=True, details=True)
        subscription = await soon(me.subscribe(inbox, topic, options))
        args, kwargs, details = await inbox.next()
        equal((args, kwargs), (["kept", b"\0\xff"], {"deep": [{}]}))
        equal((details.retained, details.publication), (True, publication.id))
        await soon(subscription.unsubscribe())
    inbox = Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.topic.retained", DETAILS))
    await soon(me.call("interop.nothing"))  # an event would have come before this answer
    assert inbox.queue.empty(), "a retained event for somebody who did not ask"
    await soon(subscription.unsubscribe())
    await other.bye()


@step
async def event_history(me):
    pattern = SubscribeOptions(match="prefix", details=True)
    subscription = await soon(me.subscribe(Inbox(), "interop.topic.kept", pattern))
    published = [
        (await soon(me.publish("interop.topic.kept.today", i, key=[i], options=ACKNOWLEDGED))).id for i in range(3)
    ]
    # The events are the positional results; Autobahn hands a single one over as it is.
    events = (await soon(me.call("wamp.subscription.get_events", subscription.id))).results[-3:]
    equal([event["publication"] for event in events], published)
    equal([(event["args"], event["kwargs"]) for event in events], [([i], {"key": [i]}) for i in range(3)])
    newest = await soon(me.call("wamp.subscription.get_events", subscription.id, reverse=True, limit=1))
    equal(newest["publication"], published[-1])
    await soon(subscription.unsubscribe())


# The router's own procedures and events


@step
async def testaments(me):
    inbox, other = Inbox(), await connect()
    subscription = await soon(me.subscribe(inbox, "interop.topic.testament", DETAILS))
    for words in ("taken back", "last"):
        await soon(other.call("wamp.session.flush_testaments"))
        await soon(other.call("wamp.session.add_testament", "interop.topic.testament", [words, b"\0"], {"key": None}))
    other.disconnect()  # without GOODBYE
    args, kwargs, _ = await inbox.next()
    equal((args, kwargs), (["last", b"\0"], {"key": None}))
    await soon(me.call("interop.nothing"))
    assert inbox.queue.empty(), "a testament that was flushed"
    await soon(subscription.unsubscribe())


@step
async def sessions_seen(me):
    joined, left = Inbox(), Inbox()
    subscriptions = [
        await soon(me.subscribe(joined, "wamp.session.on_join", DETAILS)),
        await soon(me.subscribe(left, "wamp.session.on_leave", DETAILS)),
    ]
    other = await connect("wampcra", "ann", "ann's secret")
    session = other.welcome.session
    (details,), _, _ = await joined.next()
    seen = [details[key] for key in ("session", "authid", "authrole", "authmethod")]
    equal(seen, [session, "ann", "member", "wampcra"])
    listed = await soon(me.call("wamp.session.list"))
    assert {me.welcome.session, session} <= set(listed), f"{session} and oneself are not in {listed}"
    equal(await soon(me.call("wamp.session.count")), len(listed))
    details = await soon(me.call("wamp.session.get", session))
    equal((details["session"], details["authid"]), (session, "ann"))
    await soon(me.call("wamp.session.kill", session, reason="interop.close.enough"))
    equal(await soon(other.left), "interop.close.enough")
    (gone, authid, _), _, _ = await left.next()
    equal((gone, authid), (session, "ann"))
    error = await failure(me.call("wamp.session.get", session))
    equal(error.error, "wamp.error.no_such_session")
    for subscription in subscriptions:
        await soon(subscription.unsubscribe())


@step
async def registrations_and_subscriptions_seen(me):
    registration = await soon(me.register(lambda: None, "interop.client.seen"))
    equal(await soon(me.call("wamp.registration.lookup", "interop.client.seen")), registration.id)
    equal(await soon(me.call("wamp.registration.match", "interop.client.seen")), registration.id)
    details = await soon(me.call("wamp.registration.get", registration.id))
    seen = [details[key] for key in ("id", "uri", "match", "invoke")]
    equal(seen, [registration.id, "interop.client.seen", "exact", "single"])
    equal(await soon(me.call("wamp.registration.list_callees", registration.id)), [me.welcome.session])
    await soon(registration.unregister())
    error = await failure(me.call("wamp.registration.get", registration.id))
    equal(error.error, "wamp.error.no_such_registration")

    subscription = await soon(me.subscribe(Inbox(), "interop.topic.seen", DETAILS))
    equal(await soon(me.call("wamp.subscription.lookup", "interop.topic.seen")), subscription.id)
    equal(await soon(me.call("wamp.subscription.count_subscribers", subscription.id)), 1)
    assert subscription.id in (await soon(me.call("wamp.subscription.list")))["exact"]
    await soon(subscription.unsubscribe())


@step
async def revoked_registration(me):
    other = await connect()
    registration = await soon(me.register(lambda: None, "interop.client.revoked"))
    await soon(other.call("wamp.registration.remove_callee", registration.id, me.welcome.session))
    error = await failure(other.call("interop.client.revoked"))
    equal(error.error, "wamp.error.no_such_procedure")
    await soon(me.call("interop.nothing"))  # the client takes the UNREGISTERED that nobody asked for
    await other.bye()
