"""What a connection is given, and what is known of it."""

import socket
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from archibald_rt.requestids import RequestIds


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a client may take, in seconds, and how much it may send, in bytes; 0 is off.

    ``head`` bounds the time until a request's headers are there, ``idle`` that between two
    requests or two steps of an answer, ``body`` that of a whole body.
    """

    head: float = 0.0
    idle: float = 0.0
    body: float = 0.0
    max_body: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """Where a connection comes from, as Tornado's requests tell it."""

    remote_ip: str
    protocol: str


class Taken(NamedTuple):
    """A socket that was taken from HTTP, and what was read of it beyond the request."""

    socket: socket.socket
    early: bytes


class Connection(Protocol):
    """What is kept of a client: its requests, or before them its handshake."""

    @property
    def deadline(self) -> float:
        """When it is to be timed out, by the loop's clock."""

    @property
    def idle(self) -> bool:
        """Whether nothing that was asked is being worked on."""

    def time_out(self) -> None:
        """End it, for its client took too long."""

    def abort(self) -> None:
        """End it without a word. Doing it again does nothing."""


class Owner(Protocol):
    """Whom a connection belongs to."""

    request_ids: RequestIds
    """What calls requests something that could not be read."""

    @property
    def stopping(self) -> bool:
        """Whether every connection ends with its next answer."""

    def date(self) -> str:
        """Return this moment's `Date` header."""

    def asked(self, connection: "Connection") -> None:
        """Take note that a request was answered."""

    def gone(self, connection: "Connection") -> None:
        """Take note that a connection has ended, or speaks another protocol from now on."""
