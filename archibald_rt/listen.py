"""Listening sockets, by address or by path, and how many descriptors there are for them."""

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archibald_rt.errors import ListenError

BACKLOG = 4096
"""How many connections may wait to be accepted, as far as the system allows."""

RESERVED_DESCRIPTORS = 100
"""Descriptors that are not for devices: the log, the listeners, back ends' connections."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: ``unix_socket`` if it is given, else ``host`` and ``port``."""

    host: str
    port: int
    unix_socket: Path | None = None
    unix_socket_mode: int = 0o660

    def bind(self) -> Sequence[socket.socket]:
        """Listen; port 0 takes a free one. Raises `ListenError` with one line."""
        try:
            if self.unix_socket is not None:
                return [_bind_path(self.unix_socket, self.unix_socket_mode)]
            return _bind(self.host, self.port)
        except (OSError, ValueError, OverflowError) as error:
            place = self.unix_socket or f"{self.host}:{self.port}"
            reason = getattr(error, "strerror", None) or str(error)
            raise ListenError(f"can't listen on {place}: {reason}") from error


def _bind_path(path: Path, mode: int) -> socket.socket:
    """Listen at a path; only what a dead server left there is removed.

    (Tornado's own ``bind_unix_socket`` leaves a socket that it can't bind open.)
    """
    _refuse_if_in_use(str(path))
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "a file is there that is no socket")
        path.unlink()
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        listener.settimeout(0)
        listener.bind(str(path))
        # Before anybody can connect.
        path.chmod(mode)
        listener.listen(BACKLOG)
        opened.pop_all()
    return listener


def _refuse_if_in_use(path: str) -> None:
    """Raise `OSError` if somebody listens at the path."""
    with socket.socket(socket.AF_UNIX) as probe:
        # One whose backlog is full is in use too, and would be waited for.
        probe.setblocking(False)  # noqa: FBT003 - it has no keyword
        try:
            probe.connect(path)
        except BlockingIOError:
            pass
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _bind(host: str, port: int) -> Sequence[socket.socket]:
    """Listen at every address that the host has; on an error none of them stays open.

    (Tornado's own ``bind_sockets`` leaves the one that failed open.)
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with contextlib.ExitStack() as opened:
        sockets: list[socket.socket] = []
        unavailable: OSError | None = None
        for family, address in dict.fromkeys((each[0], each[4]) for each in found):
            # With port 0 all addresses get the port that the first was given.
            at = sockets[0].getsockname()[1] if sockets else address[1]
            try:
                listener = socket.create_server(
                    (address[0], at, *address[2:]),
                    family=family,
                    backlog=BACKLOG,
                    # An empty host has an address of each family, `::` stands for both.
                    dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
                )
            except OSError as error:
                # A name such as localhost can have an address of a family that is switched off.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                unavailable = error
                continue
            opened.push(listener)
            listener.settimeout(0)
            sockets.append(listener)
        if not sockets and unavailable is not None:
            raise unavailable
        opened.pop_all()
    return sockets


def url_of(sockets: Sequence[socket.socket], *, secure: bool = False) -> str:
    """Return the address of listening sockets, such as ``http://127.0.0.1:8080``."""
    scheme = "https" if secure else "http"
    name = sockets[0].getsockname()
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if sockets[0].family == socket.AF_INET6 else name[0]
        return f"{scheme}://{host}:{name[1]}"
    if isinstance(name, bytes):
        # An abstract name begins with a zero byte, which is written as systemd and ss write it.
        name = f"@{name[1:].decode(errors='replace')}"
    return f"unix:{name}"


def raise_descriptor_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one; returns what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def descriptors_for_devices() -> int:
    """Return how many devices the limit of file descriptors allows, at least one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - RESERVED_DESCRIPTORS)
