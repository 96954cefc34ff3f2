"""Devices' messages by POST to an address of the application's."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Awaitable

import msgspec
import structlog
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from archibald_rt import __version__
from archibald_rt.reception import ClientMessage, ClientMessageHook, Counters
from archibald_rt.tally import Tally

CONCURRENCY = 16
"""How many messages are on their way at once, each of another connection."""

WAITING_OF_ONE = 100
"""How many messages of one connection may wait, besides the one on its way."""

WAITING_BYTES = 16 * 1024 * 1024
"""How many bytes of bodies may wait in all, with `OVERHEAD` for each."""

OVERHEAD = 500
LARGEST_ANSWER = 64 * 1024
"""How many bytes an answer's body may have; it is dropped as it comes."""

GOODBYE = 2.0
"""For how many seconds messages still go out when the server ends."""

_SUCCESS = range(200, 300)
_logger = structlog.stdlib.get_logger("archibald_rt.webhook")


class Webhook:
    """Posts what devices send, signed with a secret; `close` it at the end.

    Of one connection one message is on its way at a time, so they arrive in the order in which
    they were sent; connections take turns. A message is posted once: what fails within
    ``timeout`` seconds (0: no bound) or finds no room is counted, logged and gone. The
    connection it came by never notices.
    """

    def __init__(self, url: str, secret: str, *, timeout: float, counters: Counters) -> None:
        self._url = url
        self._secret = secret.encode()
        self._timeout = timeout
        self._counters = counters
        self._client = SimpleAsyncHTTPClient(
            force_instance=True,
            # Never reached: what waits there runs into the timeout.
            max_clients=2 * CONCURRENCY,
            max_body_size=LARGEST_ANSWER,
        )
        # What waits, by connection; one whose message is on its way is here and has no turn.
        self._waiting: dict[str, deque[bytes]] = {}
        self._turns: deque[str] = deque()
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._failures = Tally(_logger, "client messages not posted")
        self._drops = Tally(_logger, "client messages dropped")

    def post(self, message: ClientMessage) -> None:
        """Have a message posted in its turn; it is valid JSON, and goes out as it is."""
        body = msgspec.json.encode(
            {
                "id": secrets.token_hex(16),
                "userId": message.user,
                "connection": message.connection,
                "message": msgspec.Raw(message.message.encode()),
            }
        )
        waiting = self._waiting.get(message.connection)
        if self._closed:
            self._drop("the server is going away", message)
        elif waiting is not None and len(waiting) >= WAITING_OF_ONE:
            self._drop("too many of one connection wait", message)
        elif self._bytes + len(body) + OVERHEAD > WAITING_BYTES:
            self._drop("too many wait", message)
        else:
            if waiting is None:
                waiting = self._waiting[message.connection] = deque()
                self._turns.append(message.connection)
            waiting.append(body)
            self._bytes += len(body) + OVERHEAD
            if len(self._tasks) < CONCURRENCY and self._turns:
                task = asyncio.get_running_loop().create_task(self._post_in_turn())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give what waits a moment, drop the rest and say how much. Doing it again is fine."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GOODBYE)
        under_way = list(self._tasks)
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        left = len(under_way) + sum(len(waiting) for waiting in self._waiting.values())
        self._waiting.clear()
        self._turns.clear()
        if left:
            self._counters.messages_dropped += left
            _logger.warning("client messages given up at the end", count=left)
        self._failures.close()
        self._drops.close()
        self._client.close()

    def _drop(self, reason: str, message: ClientMessage) -> None:
        self._counters.messages_dropped += 1
        self._drops.note(reason=reason, connection=message.connection)

    async def _post_in_turn(self) -> None:
        """Post, one after the other, the first message of whose turn it is."""
        while self._turns:
            connection = self._turns.popleft()
            waiting = self._waiting[connection]
            body = waiting.popleft()
            self._bytes -= len(body) + OVERHEAD
            fault = await self._fault_of(body)
            if fault is None:
                self._counters.posted += 1
            else:
                self._counters.post_failures += 1
                self._failures.note(reason=fault, connection=connection)
            if waiting:
                self._turns.append(connection)
            else:
                del self._waiting[connection]

    async def _fault_of(self, body: bytes) -> str | None:
        """Post a body; returns why that failed, None if it didn't."""
        now = str(int(time.time()))
        request = HTTPRequest(
            self._url,
            "POST",
            {
                "Content-Type": "application/json",
                "User-Agent": f"archibald-rt/{__version__}",
                "X-Archibald-Timestamp": now,
                "X-Archibald-Signature": f"sha256={signature(self._secret, now, body)}",
            },
            body,
            connect_timeout=self._timeout,
            request_timeout=self._timeout,
            # It would go to whoever the answer names, signature and all.
            follow_redirects=False,
            decompress_response=False,
            streaming_callback=_drop_piece,
        )
        fetching = self._client.fetch(request, raise_error=False)
        # One that is given up at the end is not cancelled, and its fault is looked at here: Tornado
        # would log that of the one, asyncio that of the other.
        fetching.add_done_callback(asyncio.Future.exception)
        await asyncio.wait([fetching])
        if (error := fetching.exception()) is not None:
            return f"{type(error).__name__}: {error}"
        code = fetching.result().code
        return None if code in _SUCCESS else f"answered {code}"


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the HMAC-SHA256 of ``<timestamp>.<body>`` in hexadecimal digits."""
    return hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def also(first: ClientMessageHook, second: ClientMessageHook | None) -> ClientMessageHook:
    """Return a hook that calls both, and is done when the second is."""
    if second is None:
        return first

    def both(message: ClientMessage) -> Awaitable[None] | None:
        first(message)
        return second(message)

    return both


def _drop_piece(_piece: bytes) -> None:
    """Drop a piece of an answer's body."""
