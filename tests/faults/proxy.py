"""A TCP proxy that does to connections what bad networks do: late, mute, reset, cut off."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from faults.connections import abrupt

CHUNK = 16 * 1024
"""How many bytes are passed on at a time."""

BUFFER = 8 * 1024
"""How large receive buffers are, so that who sends feels early that nothing is read."""


class _ResetError(Exception):
    """The network resets this connection."""


class _Way:
    """One direction of a connection."""

    def __init__(self, flowing: asyncio.Event) -> None:
        self.flowing = flowing
        self.carried = 0
        self._bound: int | None = None

    def bound(self, budget: "Budget | None") -> None:
        """Have the connection reset after so many more bytes of this direction."""
        self._bound = None if budget is None else self.carried + budget()

    def allow(self, count: int) -> int:
        """Return how many of `count` bytes are still passed on."""
        if self._bound is not None:
            count = min(count, self._bound - self.carried)
        self.carried += count
        return count


class _Link:
    """One connection through the proxy."""

    def __init__(self, up: _Way, down: _Way) -> None:
        self.up = up
        self.down = down
        self.cut = False
        """Whether nothing gets through it any more, for good."""


Budget = Callable[[], int]
"""Says after how many bytes a connection is to be reset."""


class Proxy:
    """Passes connections on to `target` until it is told to behave otherwise.

    It reads ``chunk`` bytes at a time; ``delay`` is asked for each chunk how many seconds late
    it is. The receive buffers of its sockets are of ``buffer`` bytes, None is the system's.
    """

    def __init__(self, target: tuple[str, int], *, buffer: int | None = BUFFER) -> None:
        self.target = target
        self.chunk = CHUNK
        self.delay: Callable[[], float] = lambda: 0.0
        self.accepted = 0
        """How many connections were taken."""
        self.resets = 0
        """How many of them were reset by the network."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)  # noqa: FBT003 - it has no keyword
        self._buffer = buffer
        self._bound(self._listener)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._budgets: tuple[Budget | None, Budget | None] = None, None
        self._partitioned = False
        self._swallow = True
        self.resume()

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """Pass nothing more on from devices (up) or to them (down), and read nothing either."""
        if up:
            self._up.clear()
        if down:
            self._down.clear()

    def resume(self) -> None:
        """Pass everything on again, what was held up first."""
        self._up.set()
        self._down.set()

    def reset_after(self, up: Budget | None = None, down: Budget | None = None) -> None:
        """Reset connections, those there are and new ones, after so many bytes either way.

        Without a budget for any direction no connection is reset any more.
        """
        self._budgets = up, down
        for link in self._links:
            link.up.bound(up)
            link.down.bound(down)

    def partition(self, *, swallow: bool) -> None:
        """Let nothing through on any connection, for good; new ones are taken and mute.

        What is sent into it is swallowed, or left where it is: who sends feels that.
        """
        self._partitioned = True
        self._swallow = swallow
        for link in self._links:
            link.cut = True

    def heal(self) -> None:
        """Pass new connections on again. Those that were cut off stay mute."""
        self._partitioned = False

    async def serve(self) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            device, _ = await loop.sock_accept(self._listener)
            self.accepted += 1
            link = _Link(_Way(self._up), _Way(self._down))
            for way, budget in zip((link.up, link.down), self._budgets, strict=True):
                way.bound(budget)
            link.cut = self._partitioned
            task = self._links[link] = loop.create_task(self._carry(link, device))
            task.add_done_callback(lambda done, link=link: self._over(link, done))  # type: ignore[misc]  # its default binds this link

    async def close(self) -> None:
        """End all connections and stop to listen."""
        tasks = list(self._links.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    def _over(self, link: _Link, task: "asyncio.Task[None]") -> None:
        del self._links[link]
        if not task.cancelled():
            # A fault of the proxy's own must not pass for one of the network.
            task.result()

    def _bound(self, sock: socket.socket) -> None:
        if self._buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)

    async def _carry(self, link: _Link, device: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        with device, server:
            for each in (device, server):
                each.setblocking(False)  # noqa: FBT003 - it has no keyword
            self._bound(server)
            for each in (device, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if not link.cut:
                    await loop.sock_connect(server, self.target)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(link, link.up, device, server))
                    if not link.cut:
                        group.create_task(self._pass(link, link.down, server, device))
            except* (_ResetError, OSError) as error:
                # One side's own reset is passed on, but is none of the network's.
                self.resets += error.subgroup(_ResetError) is not None
                for each in (device, server):
                    abrupt(each)

    async def _pass(
        self, link: _Link, way: _Way, source: socket.socket, sink: socket.socket
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await way.flowing.wait()
            data = await loop.sock_recv(source, self.chunk)
            # What was read when the network stalled is held up like the rest.
            await way.flowing.wait()
            if late := self.delay():
                await asyncio.sleep(late)
            if link.cut:
                if data and self._swallow:
                    continue
                # The end of one side is not seen by the other either.
                await asyncio.Future()
            if not data:
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            allowed = way.allow(len(data))
            await loop.sock_sendall(sink, data[:allowed])
            if allowed < len(data):
                raise _ResetError


@asynccontextmanager
async def proxied(url: str, *, buffer: int | None = BUFFER) -> AsyncIterator[Proxy]:
    """Run a proxy to where `url` leads for the length of a block."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    proxy = Proxy((address.hostname, address.port), buffer=buffer)
    serving = asyncio.get_running_loop().create_task(proxy.serve())
    try:
        yield proxy
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        await proxy.close()
