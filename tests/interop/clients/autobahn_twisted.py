"""autobahn-python (Twisted) against a router that serves tests/interop/app: `autobahn_twisted.py URL SERIALIZER`.

The other programs have the steps of the protocol; here is what Twisted does differently: it is the connection that idles.
"""

import sys
import traceback

from autobahn.twisted.util import sleep
from autobahn.twisted.wamp import ApplicationRunner, ApplicationSession
from autobahn.wamp.serializer import create_transport_serializer
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks

URL, SERIALIZER = sys.argv[1:]
FAILED = ["it never joined"]


class Client(ApplicationSession):
    @inlineCallbacks
    def onJoin(self, details):
        try:
            assert (yield self.call("interop.add", 1, 2)) == 3
            # Longer than the router waits before it pings; over RawSocket the client knows no pings.
            yield sleep(2.5)
            assert (yield self.call("interop.add", 3, 4)) == 7
            FAILED.clear()
        except Exception:
            FAILED[:] = [traceback.format_exc()]
        self.leave()

    def onDisconnect(self):
        if reactor.running:
            reactor.stop()


ApplicationRunner(URL, "interop", serializers=[create_transport_serializer(SERIALIZER)]).run(Client)
print(*FAILED, f"{len(FAILED)} failed", flush=True)
sys.exit(len(FAILED))
