"""A client: the events of one user as an async iterator that survives lost connections.

::

    async with Client("https://app.example.com", token, cursor=load()) as client:
        async for item in client:
            if isinstance(item, ReceivedEvent):
                handle(item)
                save(client.cursor)

Saved after handling, the cursor makes handling at least once across restarts.
"""

import asyncio
import inspect
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from random import random as uniform
from types import TracebackType
from typing import NoReturn, Self, TypeAlias

from archibald_rt.client.messages import (
    ClientClosedError,
    Item,
    Live,
    ProtocolError,
    ReceivedEvent,
)
from archibald_rt.client.place import Place
from archibald_rt.client.renewal import renew_in, seconds_of
from archibald_rt.client.socket import (
    ClientSocket,
    ConnectionEndedError,
    open_socket,
    websocket_url,
)
from archibald_rt.errors import AuthError

Token: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives a fresh one: at every connect, and before the one in use expires."""

# The close codes of docs/protocol.md after which a client returns only with a new token, and
# after which it doesn't return by itself; after any other it resumes.
_NEEDS_TOKEN = frozenset({1008, 4001, 4002})
_FINAL = frozenset({1009, 4003, 4005})

# Items read ahead of the caller; a full buffer holds back the server, not the memory.
_READ_AHEAD = 16

_log = logging.getLogger("archibald_rt.client")


class Client:
    """One user's events from the server at ``url``, to be entered once and iterated over.

    It connects in the background while it is entered, and again whenever the connection is
    lost, without limit: after as long as the server asked for, else after a random time of at
    most ``backoff_first`` seconds, doubled with every try up to ``backoff_max``. Going live
    begins anew. Each durable event comes once and in order; what can't be had any more is said
    by a Gap. A Live comes once for each connection.

    ``token`` is a str, or gives one when it is called, at once or awaited: at every connect, and
    once four fifths of the time are over that its ``exp`` leaves. Then the new one takes the old
    one's place without a reconnect. ``cursor`` is where to
    begin: that of the last event handled, ``earliest`` for all that is retained, None for what
    comes from now on. ``connect_timeout`` seconds are given to the connect, and as many to the
    server's first message; a message of more than ``max_message`` bytes ends its connection.

    Iterating raises, after all that had arrived before, and again at every further try:

    - ClientError where returning would not help, such as an address that is no such server or
      a certificate that isn't trusted; ClientClosedError after a close that is final;
    - AuthError when the server refuses a token that is a str, or two in a row of a callable, or
      when no header can carry the token;
    - whatever the callable raises.

    Little is read ahead. A caller that takes longer over one item than the server's heartbeat
    may be dropped by the server: it resumes, but misses the transient events of that time.

    Raises ValueError for an address that can't be one.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        cursor: str | None = None,
        backoff_first: float = 1.0,
        backoff_max: float = 30.0,
        connect_timeout: float = 10.0,
        max_message: int = 16 * 1024 * 1024,
        ssl_context: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Callable[[], float] = uniform,
    ) -> None:
        self._url = websocket_url(url)
        self._token = token
        self._backoff_first = min(backoff_first, backoff_max)
        self._backoff_max = backoff_max
        self._connect_timeout = connect_timeout
        self._max_message = max_message
        self._ssl_context = ssl_context
        self._sleep = sleep
        self._random = random

        # Two places: reconnects go by what was received, the caller by what it was handed.
        self._place = Place(cursor)
        self._cursor = cursor
        self._ready: deque[tuple[Item, str | None]] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

        self._ceiling = self._backoff_first
        self._refused = False
        self._distrusted = False
        self._following: asyncio.Task[NoReturn] | None = None
        self._closed = False

    @property
    def cursor(self) -> str | None:
        """Where to resume after the last item handed over; at first what the caller gave.

        An expired gap doesn't move it: a broadcast that is still held may lie before its end.
        """
        return self._cursor

    async def __aenter__(self) -> Self:
        if self._following is not None or self._closed:
            raise RuntimeError("a client can be entered only once")
        self._following = asyncio.create_task(self._follow(), name="archibald_rt.client")
        self._following.add_done_callback(lambda _: self._arrived.set())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        # Nothing is awaited once an item is taken, so a cancelled wait loses none.
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            if self._following is None:
                raise RuntimeError("a client is iterated over inside its `async with`")
            if self._following.done():
                self._following.result()
            self._arrived.clear()
            await self._arrived.wait()
        item, self._cursor = self._ready.popleft()
        self._taken.set()
        return item

    async def close(self) -> None:
        """End the connection and the iteration; twice is fine.

        Items not yet handed over are dropped; the durable events among them can be had again by
        the cursor. It takes at most a second, and then nothing of the client runs any more, but
        that a connect under way is shut when it succeeds.
        """
        if not self._closed:
            self._closed = True
            self._ready.clear()
            self._arrived.set()
            if self._following is not None:
                # Once only: another cancel would cut the close handshake short.
                self._following.cancel()
        if self._following is not None:
            await asyncio.wait({self._following})
            if not self._following.cancelled():
                # Looked at, so that asyncio doesn't report what the caller no longer asks for.
                self._following.exception()

    async def _follow(self) -> NoReturn:
        while True:
            try:
                await self._stay_connected()
            except ConnectionEndedError as end:
                self._give_up_if_final(end)
                cause = f"{end.code} {end.reason}".rstrip()
            except ProtocolError as error:
                self._distrusted = True
                cause = str(error)
            await self._pause(cause)

    async def _stay_connected(self) -> NoReturn:
        token = await self._next_token()
        socket = await open_socket(
            self._url,
            token,
            cursor=self._place.position,
            connect_timeout=self._connect_timeout,
            max_message=self._max_message,
            ssl_context=self._ssl_context,
        )
        renewing: asyncio.Task[None] | None = None
        try:
            welcome = self._place.welcome(await self._first_message(socket))
            socket.watch(welcome.heartbeat_ms / 1000)
            self._refused = False
            if callable(self._token):
                renewing = asyncio.create_task(self._renew(socket, token, welcome.timestamp))
            while True:
                item = self._place.take(await socket.read())
                if item is not None:
                    await self._hand_on(item)
        finally:
            if renewing is not None:
                renewing.cancel()
            await socket.close()

    async def _renew(self, socket: ClientSocket, token: str, timestamp: str) -> None:
        """Give the server a new token each time before the one in use expires."""
        clock = asyncio.get_running_loop().time
        began = seconds_of(timestamp)
        ahead = None if began is None else began - clock()
        while ahead is not None and (wait := renew_in(token, clock() + ahead)) is not None:
            await asyncio.sleep(wait)
            try:
                token = await self._next_token()
            except Exception as error:  # noqa: BLE001 - the caller's own, which a connect raises
                _log.warning("the token could not be renewed: %s", error)
                return
            socket.renew(token)

    async def _next_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        token = self._token()
        return await token if inspect.isawaitable(token) else token

    async def _first_message(self, socket: ClientSocket) -> str:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await socket.read()
        except TimeoutError as error:
            raise ConnectionEndedError("the server's welcome didn't come in time") from error

    async def _hand_on(self, item: Item) -> None:
        if isinstance(item, ReceivedEvent) and item.id is not None:
            self._distrusted = False
        elif isinstance(item, Live) and not self._distrusted:
            # One that goes live and then errs again would be met at the shortest pause for ever.
            self._ceiling = self._backoff_first
        while len(self._ready) >= _READ_AHEAD:
            self._taken.clear()
            await self._taken.wait()
        self._ready.append((item, self._place.position))
        self._arrived.set()

    def _give_up_if_final(self, end: ConnectionEndedError) -> None:
        if end.code in _FINAL:
            raise ClientClosedError(end.code, end.reason) from end
        if end.code in _NEEDS_TOKEN:
            if self._refused or not callable(self._token):
                refusal = f"the server refused the token: {end.code} {end.reason}"
                raise AuthError(refusal.rstrip()) from end
            self._refused = True

    async def _pause(self, cause: str) -> None:
        seconds = self._place.reconnect_after
        if seconds is None:
            seconds = self._ceiling * self._random()
            self._ceiling = min(self._ceiling * 2, self._backoff_max)
        self._place.reconnect_after = None
        _log.info("reconnecting to %s in %.1f s: %s", self._url, seconds, cause)
        await self._sleep(seconds)
