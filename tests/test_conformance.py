"""RFC 6455, as the Autobahn test suite asks for it, put to the socket base by ``kosoku``."""

import socket
from collections import Counter
from collections.abc import Callable

import pytest
from kosoku import FailureError, run_fuzzingclient
from tornado.testing import bind_unused_port
from tornado.web import Application

from archibald_rt.budget import Budget
from archibald_rt.http1.listener import Listener
from archibald_rt.outbox import Tick
from archibald_rt.protocol import BINARY, TEXT, frame
from archibald_rt.upgrade import SocketHandler
from archibald_rt.websocket import Connection

SECTIONS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""How many cases each section has; 8 and 11 have none, and 12 and 13 are EXCLUDED."""

EXCLUDED = ["12.*", "13.*"]
"""Compression, which is never negotiated: nothing could be asked of it."""

NOT_STRICT = {"6.4.1", "6.4.2", "6.4.3", "6.4.4"}
"""A text that can't become UTF-8 any more is refused when it is whole, not before.

The RFC (section 8.1) asks for the refusal and leaves its moment open. Messages are small, and a
decoder fed piece by piece would be kept by every connection.
"""

INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
"""What the RFC leaves open, so that there is nothing to pass.

The first: what becomes of a long message with a close right behind it; the others: close codes
of 5000 and above.
"""

TOGETHER = 8
"""How many cases run at once: those that wait for a second or two don't add up."""


class Echo:
    """Owns a connection, and sends back what comes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._connection.outbox.push(frame(TEXT, message.encode()))
        else:
            self._connection.outbox.push(frame(BINARY, message))

    def on_pong(self) -> None:
        pass

    def on_breach(self, code: int, reason: str) -> None:
        pass

    def on_close(self, code: int | None, reason: str | None) -> None:
        pass


class EchoHandler(SocketHandler):
    def initialize(self, tick: Tick, budget: Budget) -> None:
        self._tick = tick
        self._budget = budget

    def connection_on(self, sock: socket.socket) -> Connection:
        # Section 9 sends messages of 16 MiB.
        return Connection(sock, self._tick, self._budget, limit=0, max_message=0)

    def accepted(self, connection: Connection) -> Echo:
        return Echo(connection)


@pytest.mark.gen_test
async def test_every_case_of_the_autobahn_suite_passes(report: Callable[[str], None]) -> None:
    shared = {"tick": Tick(), "budget": Budget(limit=0, largest=1)}
    server = Listener(Application([("/", EchoHandler, shared)]))
    listening, port = bind_unused_port()
    server.add_sockets([listening])
    try:
        results = await run_fuzzingclient(
            f"ws://127.0.0.1:{port}/", None, EXCLUDED, concurrency=TOGETHER
        )
    except FailureError as error:
        failed = {each.case_id: (each.result, each.result_close) for each in error.results}
        pytest.fail(f"{len(failed)} cases failed: {failed}")
    finally:
        server.stop()
        await server.over(0)

    assert Counter(each.case_id.partition(".")[0] for each in results) == SECTIONS
    verdicts = {each.case_id: each.behavior.value for each in results}
    by_verdict = Counter(verdicts.values())
    report(f"Autobahn: {len(results)} cases, {dict(by_verdict)}; by section {SECTIONS}")
    assert {case for case, verdict in verdicts.items() if verdict == "NON-STRICT"} <= NOT_STRICT
    assert {case for case, is_ in verdicts.items() if is_ == "INFORMATIONAL"} <= INFORMATIONAL
    assert set(verdicts.values()) <= {"OK", "NON-STRICT", "INFORMATIONAL"}
    closes = {each.case_id: each.behavior_close.value for each in results}
    assert {case for case, verdict in closes.items() if verdict != "OK"} <= INFORMATIONAL
