"""What systemd hands to a service and wants to hear of it: sd_listen_fds(3), sd_notify(3).

Any supervisor will do that holds the sockets, or listens, and sets the same variables. They
are removed from the environment when they have been read, so that no child takes them for its
own.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import structlog

from archibald_rt.errors import ListenError

FIRST_DESCRIPTOR = 3
"""The descriptor of the first socket that is handed over; the others follow it."""

PATIENCE = 1.0
"""For how many seconds a message may wait for a service manager that is busy."""

_LISTENERS = ("public", "internal")
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6, socket.AF_UNIX})
_NUMBER = re.compile("[1-9][0-9]{0,17}", re.ASCII)

_logger = structlog.stdlib.get_logger("archibald_rt.systemd")


@dataclass(frozen=True, slots=True)
class Inherited:
    """Listening sockets that somebody else made and holds on to, by listener.

    A listener without any binds as configured.
    """

    public: Sequence[socket.socket] = ()
    internal: Sequence[socket.socket] = ()


NOTHING_INHERITED = Inherited()
"""What a process has that nobody gave a socket to."""


@contextmanager
def inherited_sockets(environ: MutableMapping[str, str]) -> Iterator[Inherited]:
    """Take over the sockets that ``LISTEN_FDS`` tells of; close our copies of them at the end.

    Sockets named ``public`` or ``internal`` go to that listener; of sockets without names the
    first is public, the second internal. A ``LISTEN_PID`` that is another process's means that
    none of them is for us. Raises `ListenError` with one line for anything odd.
    """
    pid, count, names = (
        environ.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    # Newer releases tell by it too whom the sockets are for.
    environ.pop("LISTEN_PIDFDID", None)
    if pid is None or count is None or _number("LISTEN_PID", pid) != os.getpid():
        yield NOTHING_INHERITED
        return
    owners = _owners(_number("LISTEN_FDS", count), names)
    taken: dict[str, list[socket.socket]] = {name: [] for name in _LISTENERS}
    with contextlib.ExitStack() as opened:
        for place, owner in enumerate(owners):
            taken[owner].append(opened.enter_context(_listening(FIRST_DESCRIPTOR + place)))
        yield Inherited(**taken)


def _number(variable: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ListenError(f"{variable}: expected a positive number, got {text[:50]!r}")
    return int(text)


def _owners(count: int, names: str | None) -> Sequence[str]:
    """Return for each socket the listener that it is for."""
    given = [] if names is None else names.split(":")
    if names is not None and len(given) != count:
        raise ListenError(f"LISTEN_FDNAMES: {len(given)} names for {count} sockets")
    # Without FileDescriptorName= the name is that of the socket unit.
    if all(name in {"", "unknown"} or name.endswith(".socket") for name in given):
        if count > len(_LISTENERS):
            raise ListenError(
                f"LISTEN_FDS: {count} sockets without names;"
                " expected FileDescriptorName=public or internal in their units"
            )
        return _LISTENERS[:count]
    for name in given:
        if name not in _LISTENERS:
            raise ListenError(f"LISTEN_FDNAMES: expected public or internal, got {name[:50]!r}")
    return given


def _listening(descriptor: int) -> socket.socket:
    """Return the socket that a descriptor stands for, if it is one to accept from."""
    refusal = f"LISTEN_FDS: descriptor {descriptor} is no listening stream socket"
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{refusal}: {error.strerror}") from error
    if (
        found.family not in _FAMILIES
        or found.type != socket.SOCK_STREAM
        or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        # It may be anybody's, so it is left open.
        found.detach()
        raise ListenError(refusal)
    found.set_inheritable(False)
    found.settimeout(0)
    return found


class Notifier:
    """Tells a service manager how the process is; without one, all of it does nothing.

    ``address`` is the path of the manager's socket, or with ``@`` its abstract name.
    ``watchdog`` is for how many seconds it waits for a sign of life, 0 for ever. That it can't
    be told is logged once, and never raised.
    """

    def __init__(self, address: str | None, *, watchdog: float = 0.0) -> None:
        self._address = address
        self._watchdog = watchdog
        self._failed = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        address, interval, pid = (
            environ.pop(name, "") or None
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        )
        if interval is None or pid not in {None, str(os.getpid())}:
            return cls(address)
        if not _NUMBER.fullmatch(interval):
            _logger.warning("WATCHDOG_USEC is no number, there will be no signs of life")
            return cls(address)
        return cls(address, watchdog=int(interval) / 1_000_000)

    async def ready(self, status: str) -> None:
        """Say that the service has started; ``status`` is a line for people."""
        await self._tell("READY=1", f"STATUS={status}")

    async def reloading(self) -> None:
        """Say that the configuration is read again; `ready` says when that is over."""
        # What Type=notify-reload tells an answer to its signal from an earlier one by.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        await self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    async def stopping(self, status: str, *, within: float) -> None:
        """Say that the service ends, and ask not to be killed within so many seconds."""
        extension = f"EXTEND_TIMEOUT_USEC={round(within * 1_000_000)}"
        await self._tell("STOPPING=1", f"STATUS={status}", extension)

    @asynccontextmanager
    async def signs_of_life(self) -> AsyncIterator[None]:
        """Give a sign twice in each interval of the watchdog, as long as the loop turns."""
        if self._address is None or not self._watchdog:
            yield
            return
        pinging = asyncio.get_running_loop().create_task(self._ping())
        try:
            yield
        finally:
            pinging.cancel()
            await asyncio.wait([pinging])

    async def _ping(self) -> None:
        while True:
            await self._tell("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)

    async def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            async with asyncio.timeout(PATIENCE):
                await _send(self._address, "\n".join(assignments).encode())
        except OSError as error:
            if not self._failed:
                self._failed = True
                _logger.warning(
                    "can't notify the service manager",
                    socket=self._address,
                    # A timeout has no text.
                    reason=error.strerror or str(error) or "it takes nothing",
                )


async def _send(address: str, message: bytes) -> None:
    if address[:1] not in {"/", "@"}:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(0)
        # Connected, or it would seem writable while the manager's queue is full.
        sender.connect("\0" + address[1:] if address[0] == "@" else address)
        await asyncio.get_running_loop().sock_sendall(sender, message)
