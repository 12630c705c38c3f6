"""autobahn-python (asyncio) against a router that serves tests/interop/app.

    autobahn_python.py URL SERIALIZER      ws://…, wss://…, rs://… or rss://…; json, msgpack or cbor, perhaps .batched

Prints a line per step and exits with 1 if one of them failed. With TLS the CA is that of SSL_CERT_FILE.
"""

import asyncio
import json
import sys
import traceback

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions, CallResult, PublishOptions, RegisterOptions, SubscribeOptions
from autobahn_sessions import DETAILS, SERIALIZER, STEPS, URL, Inbox, connect, equal, failure, refused, soon, step


# Logins


@step
async def anonymous(_me):
    guest = await connect("anonymous", None)
    equal((guest.welcome.authmethod, guest.welcome.authrole), ("anonymous", "guest"))
    equal(await guest.bye(), "wamp.close.goodbye_and_out")


@step
async def ticket(_me):
    for authid in ("joe", "lua-joe"):
        member = await connect("ticket", authid, f"{authid}'s ticket")
        welcome = member.welcome
        equal((welcome.authmethod, welcome.authid, welcome.authrole), ("ticket", authid, "member"))
        await member.bye()


@step
async def wampcra(_me):
    secrets = {
        "ann": "ann's secret",
        "sal": "salted secret",
        "sue": "sue's password",
        "lua-ann": "lua-ann's secret",
    }
    for authid, secret in secrets.items():
        member = await connect("wampcra", authid, secret)
        welcome = member.welcome
        equal((welcome.authmethod, welcome.authid, welcome.authrole), ("wampcra", authid, "member"))
        await member.bye()


@step
async def scram(_me):
    for authid in ("kim", "lua-kim"):
        member = await connect("scram", authid, f"{authid}'s password")
        welcome = member.welcome
        equal((welcome.authmethod, welcome.authid, welcome.authrole), ("scram", authid, "member"))
        await member.bye()


@step
async def cryptosign(_me):
    # With and without a name; the private keys of tests/interop/app.
    for authid, known_as, key in (("hub", "hub", "01"), (None, "hub", "01"), ("lua-hub", "lua-hub", "02")):
        member = await connect("cryptosign", authid, key * 32)
        welcome = member.welcome
        equal((welcome.authmethod, welcome.authid, welcome.authrole), ("cryptosign", known_as, "member"))
        await member.bye()


@step
async def bound_to_the_channel(_me):
    # The one binding that Autobahn knows does not exist in TLS 1.3, and without TLS there is nothing to bind to.
    refusal = await refused(connect("cryptosign", "hub", "01" * 32, binding="tls-unique"))
    equal(refusal, "wamp.error.authentication_denied")


@step
async def wrong_secret(_me):
    wrong = (
        ("ticket", "joe", "a guess"),
        ("ticket", "lua-joe", "a guess"),
        ("wampcra", "ann", "a guess"),
        ("wampcra", "sal", "a guess"),
        ("scram", "kim", "a guess"),
        ("scram", "lua-kim", "a guess"),
        ("cryptosign", "hub", "02" * 32),
        ("cryptosign", "lua-hub", "01" * 32),
        ("cryptosign", None, "03" * 32),
    )
    for method, authid, guess in wrong:
        equal(await refused(connect(method, authid, guess)), "wamp.error.authentication_denied")


@step
async def unknown_realm(_me):
    equal(await refused(connect("anonymous", None, realm="nowhere")), "wamp.error.no_such_realm")


# Calls to Lua procedures


@step
async def plain_result(me):
    equal(await soon(me.call("interop.add", 2, 3)), 5)
    equal(await soon(me.call("interop.add", 0.25, 0.5)), 0.75)
    equal(await soon(me.call("interop.nothing")), None)


@step
async def compressed(me):
    # The client offers it of its own accord; repeated, as with context takeover only the second refers to the first.
    if URL.startswith("ws"):
        equal(len(me._transport.websocket_extensions_in_use), 1)
    text = "a kitchen, a hall and a garden; " * 1000
    for _ in range(2):
        equal(await soon(me.call("interop.echo", text)), text)


@step
async def several_results(me):
    result = await soon(me.call("interop.many"))
    equal((list(result.results), result.kwresults), ([1, "two", True], {"three": 3}))


@step
async def arguments_and_keywords(me):
    result = await soon(me.call("interop.echo", 1, "two", [3, {"four": 5.5}], yes=True, no=False))
    equal((list(result.results), result.kwresults), ([1, "two", [3, {"four": 5.5}]], {"yes": True, "no": False}))


@step
async def kinds_sent(me):
    sent = [None, [], {}, [[], {}], {"map": {}}, {"list": []}, [None, None], True, "Größe ☾ 🌒 \0", 2**53, -1.5]
    result = await soon(me.call("interop.echo", *sent))
    equal(list(result.results), sent)
    for value in sent:
        equal(json.loads(await soon(me.call("interop.as_json", value))), value)


@step
async def kinds_received(me):
    result = await soon(me.call("interop.kinds"))
    equal(list(result.results), ["Mondnähe ☾ 🌒", None, [], {}, [[], {}], 2**53, 0.5])


@step
async def big_integers(me):
    for number in (2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1):
        equal(await soon(me.call("interop.echo", number)), number)
        equal(json.loads(await soon(me.call("interop.as_json", number))), number)
    result = await soon(me.call("interop.big"))
    equal(list(result.results), [2**53 + 1, -(2**63) + 1, 2**64 - 1])


@step
async def binary(me):
    octets = bytes(range(256))
    equal(await soon(me.call("interop.echo", octets)), octets)
    equal(await soon(me.call("interop.size", octets)), 256)
    equal(await soon(me.call("interop.binary")), b"\0\1\xfe\xff")


@step
async def raised_error(me):
    error = await failure(me.call("interop.fail", 7))
    equal((error.error, list(error.args), error.kwargs), ("interop.error.refused", ["no", 7], {"why": "asked to"}))
    error = await failure(me.call("interop.crash"))
    equal(error.error, "wamp.error.runtime_error")
    assert "procedures.lua" not in str(error), f"tells where it happened: {error}"
    error = await failure(me.call("interop.not_there"))
    equal(error.error, "wamp.error.no_such_procedure")


@step
async def progressive_results(me):
    seen = []
    options = CallOptions(on_progress=lambda i, left: seen.append((i, left)))
    equal(await soon(me.call("interop.count", 4, options=options)), "done")
    equal(seen, [(1, 3), (2, 2), (3, 1), (4, 0)])
    equal(await soon(me.call("interop.count", 4)), "done")  # not asked for: none sent


@step
async def cancelled_call(me):
    told = asyncio.get_running_loop().create_future()
    subscription = await soon(me.subscribe(told.set_result, "interop.topic.cancelled"))
    begun = asyncio.get_running_loop().create_future()
    call = me.call("interop.wait", 42, options=CallOptions(on_progress=begun.set_result))
    equal(await soon(begun), "waiting")
    call.cancel()
    equal(await soon(told), 42)
    await soon(subscription.unsubscribe())


@step
async def disclosed_caller(me):
    result = await soon(me.call("interop.whoami"))
    equal(result.kwresults, {"session": me.welcome.session, "authid": "joe", "authrole": "member"})


# Publish and subscribe


@step
async def events(me):
    other, inbox = await connect(), Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.topic.news", DETAILS))
    options = PublishOptions(acknowledge=True)
    publication = await soon(other.publish("interop.topic.news", 1, None, "ø", deep={"list": []}, options=options))
    args, kwargs, details = await inbox.next()
    equal((args, kwargs, details.publication), ([1, None, "ø"], {"deep": {"list": []}}, publication.id))
    equal((details.publisher, details.publisher_authid), (other.welcome.session, "joe"))
    await soon(subscription.unsubscribe())
    await soon(other.publish("interop.topic.news", 2, options=options))
    await soon(me.call("interop.nothing"))  # an event would have come before this answer
    assert inbox.queue.empty(), "an event after UNSUBSCRIBED"
    await other.bye()


@step
async def own_events(me):
    inbox = Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.topic.own", DETAILS))
    await soon(me.publish("interop.topic.own", "excluded", options=PublishOptions(acknowledge=True)))
    options = PublishOptions(acknowledge=True, exclude_me=False)
    await soon(me.publish("interop.topic.own", "included", options=options))
    equal((await inbox.next())[0], ["included"])
    await soon(subscription.unsubscribe())


@step
async def chosen_receivers(me):
    other, mine, others = await connect(), Inbox(), Inbox()
    subscription = await soon(me.subscribe(mine, "interop.topic.chosen", DETAILS))
    await soon(other.subscribe(others, "interop.topic.chosen", DETAILS))
    options = {"acknowledge": True, "exclude_me": False}
    to_me = PublishOptions(eligible=[me.welcome.session], **options)
    await soon(other.publish("interop.topic.chosen", "for me", options=to_me))
    to_other = PublishOptions(exclude=[me.welcome.session], **options)
    await soon(other.publish("interop.topic.chosen", "not for me", options=to_other))
    to_nobody = PublishOptions(exclude_authrole=["member"], **options)
    await soon(other.publish("interop.topic.chosen", "for guests", options=to_nobody))
    await soon(other.publish("interop.topic.chosen", "for all", options=PublishOptions(**options)))
    equal([(await mine.next())[0] for _ in range(2)], [["for me"], ["for all"]])
    equal([(await others.next())[0] for _ in range(2)], [["not for me"], ["for all"]])
    await soon(subscription.unsubscribe())
    await other.bye()


@step
async def patterns(me):
    inbox = Inbox()
    for match, topic in (("prefix", "interop.topic.pat"), ("wildcard", "interop..pattern.news")):
        subscription = await soon(me.subscribe(inbox, topic, SubscribeOptions(match=match, details=True)))
        options = PublishOptions(acknowledge=True, exclude_me=False)
        await soon(me.publish("interop.topic.pattern.news", match, options=options))
        args, _, details = await inbox.next()
        equal((args, details.topic), ([match], "interop.topic.pattern.news"))
        await soon(subscription.unsubscribe())


@step
async def script_publishes(me):
    inbox = Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.topic.script", DETAILS))
    publication = await soon(me.call("interop.publish", "interop.topic.script", 1, [], key={}))
    args, kwargs, details = await inbox.next()
    equal((args, kwargs, details.publication), ([1, []], {"key": {}}, publication))
    await soon(subscription.unsubscribe())


@step
async def text_that_looks_binary(me):
    """To JSON peers a text that begins with U+0000 is octets in Base64: the client drops a connection where it is not."""
    inbox = Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.topic.odd", DETAILS))
    await soon(me.call("interop.publish_odd", "interop.topic.odd"))
    args, kwargs, _ = await inbox.next()
    odd = "\0no Base64"
    if SERIALIZER == "json":
        odd = odd.encode()
    equal((args, kwargs), ([odd], {"deep": [odd]}))
    await soon(subscription.unsubscribe())


@step
async def idle(me):
    """Longer than the router waits before it pings; the client knows no pings of RawSocket."""
    await asyncio.sleep(2.5 if URL.startswith("r") else 0)
    await soon(me.call("interop.nothing"))


@step
async def script_subscribes(me):
    inbox = Inbox()
    subscription = await soon(me.subscribe(inbox, "interop.heard", DETAILS))
    me.publish("interop.note.today", "a", None, key=[1])
    args, kwargs, _ = await inbox.next()
    expected = {"topic": "interop.note.today", "publisher": me.welcome.session, "kwargs": {"key": [1]}}
    equal((args, kwargs), (["a", None], expected))
    await soon(subscription.unsubscribe())


# Procedures of the client


@step
async def called_by_a_client(me):
    other = await connect()

    def endpoint(*args, details, **kwargs):
        if not args:
            raise ApplicationError("interop.error.empty", "nothing given", hint="give one")
        if details.progress:
            details.progress("half")
        return CallResult(*reversed(args), caller=details.caller, **kwargs)

    registration = await soon(me.register(endpoint, "interop.client.reverse", RegisterOptions(details=True)))
    result = await soon(other.call("interop.client.reverse", 1, "two", None, key="value"))
    expected = {"key": "value", "caller": other.welcome.session}
    equal((list(result.results), result.kwresults), ([None, "two", 1], expected))

    halves = []
    options = CallOptions(on_progress=halves.append)
    await soon(other.call("interop.client.reverse", 1, 2, options=options))
    equal(halves, ["half"])

    error = await failure(other.call("interop.client.reverse"))
    seen = (error.error, list(error.args), error.kwargs)
    equal(seen, ("interop.error.empty", ["nothing given"], {"hint": "give one"}))

    await soon(registration.unregister())
    error = await failure(other.call("interop.client.reverse"))
    equal(error.error, "wamp.error.no_such_procedure")
    await other.bye()


@step
async def called_by_a_script(me):
    def endpoint(*args, **kwargs):
        if not args:
            raise ApplicationError("interop.error.empty", "nothing given", hint="give one")
        return CallResult(*args, **kwargs)

    registration = await soon(me.register(endpoint, "interop.client.same"))
    sent = [1, "ø", None, [], {}, {"deep": [{}]}, 2**53 + 1, b"\0\xff"]
    result = await soon(me.call("interop.relay", "interop.client.same", *sent, key=[[]]))
    equal((list(result.results), result.kwresults), (sent, {"key": [[]]}))

    error = await failure(me.call("interop.relay", "interop.client.same"))
    seen = (error.error, list(error.args), error.kwargs)
    equal(seen, ("interop.error.empty", ["nothing given"], {"hint": "give one"}))
    result = await soon(me.call("interop.relay_caught", "interop.client.same"))
    expected = {"uri": "interop.error.empty", "args": ["nothing given"], "kwargs": {"hint": "give one"}}
    equal((list(result.results), result.kwresults), ([False], expected))
    await soon(registration.unregister())


@step
async def guests_may_not_register(_me):
    guest = await connect("anonymous", None)
    equal(await soon(guest.call("interop.add", 1, 1)), 2)
    error = await failure(guest.register(lambda: None, "interop.client.guest"))
    equal(error.error, "wamp.error.not_authorized")
    error = await failure(guest.publish("interop.topic.news", options=PublishOptions(acknowledge=True)))
    equal(error.error, "wamp.error.not_authorized")
    await guest.bye()


import autobahn_features  # noqa: E402, F401  its steps come after these


async def main():
    failed = 0
    me = await connect()
    for function in STEPS:
        try:
            await function(me)
            print(f"ok {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
    await me.bye()
    print(f"{len(STEPS) - failed} steps passed, {failed} failed", flush=True)
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
