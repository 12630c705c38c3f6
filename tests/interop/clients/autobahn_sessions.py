"""What the steps with autobahn-python (asyncio) are made of: sessions, waiting with patience, inboxes."""

import asyncio
import sys

from autobahn.asyncio.wamp import ApplicationRunner, ApplicationSession
from autobahn.wamp import auth
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import create_transport_serializer
from autobahn.wamp.types import SubscribeOptions

URL, SERIALIZER = sys.argv[1:]
PATIENCE = 10  # seconds for a single answer
STEPS = []


def step(function):
    STEPS.append(function)
    return function


class Refused(Exception):
    """The router answered HELLO or AUTHENTICATE with ABORT."""


class Client(ApplicationSession):
    """One session; `joined` and `left` are futures."""

    def __init__(self, config):
        super().__init__(config)
        self.joined = asyncio.get_running_loop().create_future()
        self.left = asyncio.get_running_loop().create_future()

    def onConnect(self):
        login = self.config.extra
        method, authid, secret, binding = (login[key] for key in ("method", "authid", "secret", "binding"))
        # Autobahn's own authenticators, for what needs more than a line.
        self.proof, extra = None, None
        if method == "scram":
            self.proof = auth.create_authenticator(method, authid=authid, password=secret)
        elif method == "cryptosign":
            extra = {"channel_binding": binding} if binding else {}
            self.proof = auth.create_authenticator(method, privkey=secret, authextra=extra)
        if self.proof:
            extra = self.proof.authextra
        self.join(self.config.realm, [method], authid, authextra=extra)

    def onWelcome(self, welcome):
        # What this returns ends the session: the router has to prove itself in its turn.
        return self.proof.on_welcome(self, welcome.authextra) if self.proof else None

    def onChallenge(self, challenge):
        if self.proof:
            return self.proof.on_challenge(self, challenge)
        secret = self.config.extra["secret"]
        if challenge.method == "ticket":
            return secret
        if "salt" in challenge.extra:
            salted = challenge.extra
            secret = auth.derive_key(secret, salted["salt"], salted["iterations"], salted["keylen"]).decode()
        return auth.compute_wcs(secret, challenge.extra["challenge"]).decode()

    def onJoin(self, details):
        self.joined.set_result(details)

    def onLeave(self, details):
        if not self.joined.done():
            self.joined.set_exception(Refused(details.reason))
        self.left.set_result(details.reason)
        self.disconnect()

    async def bye(self):
        self.leave()
        return await soon(self.left)


async def soon(awaitable):
    return await asyncio.wait_for(awaitable, PATIENCE)


async def connect(method="ticket", authid="joe", secret="joe's ticket", realm="interop", binding=None):
    made = asyncio.get_running_loop().create_future()

    def make(config):
        made.set_result(Client(config))
        return made.result()

    login = {"method": method, "authid": authid, "secret": secret, "binding": binding}
    serializer = create_transport_serializer(SERIALIZER)
    await soon(ApplicationRunner(URL, realm, login, [serializer]).run(make, start_loop=False))
    client = await soon(made)
    client.welcome = await soon(client.joined)
    return client


async def refused(awaitable):
    """The reason of the ABORT that `awaitable`, a login, must end in."""
    try:
        await awaitable
    except Refused as refusal:
        return str(refusal)
    raise AssertionError("was let in")


async def failure(awaitable):
    """The WAMP error that `awaitable` must end in."""
    try:
        result = await soon(awaitable)
    except ApplicationError as error:
        return error
    raise AssertionError(f"no error but {result!r}")


def equal(seen, expected):
    assert seen == expected, f"expected {expected!r}, got {seen!r}"


class Inbox:
    """What arrived at a subscription, in order."""

    def __init__(self):
        self.queue = asyncio.Queue()

    def __call__(self, *args, details, **kwargs):
        self.queue.put_nowait((list(args), kwargs, details))

    async def next(self):
        return await soon(self.queue.get())


DETAILS = SubscribeOptions(details=True)
