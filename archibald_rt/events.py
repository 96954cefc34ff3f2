"""The values everything else is about: emissions, events, cursors, users' ids. No I/O.

An emission is what a back end asks for; a durable one becomes an event when the log has
committed it and given it a seq. Both carry the body's *tail*: the bytes of the JSON object
from ``"type"`` to its closing brace, built once and never decoded again, so that a payload
reaches every device exactly as its emitter wrote it.
"""

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import NamedTuple

import msgspec

MAX_USER = 256
"""How many characters a user id may have."""

MAX_TYPE = 128
"""How many characters a type may have."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Finds a control character (Unicode's category Cc), which no name holds."""

_SURROGATE = re.compile("[\ud800-\udfff]")
CURSOR_PATTERN = "([0-9A-Za-z_-]{1,64}):(0|[1-9][0-9]{0,18})"
"""Matches a whole cursor, whose seq is a positive 64-bit integer without leading zeros."""

_CURSOR = re.compile(CURSOR_PATTERN, re.ASCII)

EARLIEST = "earliest"
"""The ``lastEventId`` that asks for everything retained."""

TIMESTAMP_MARK = b',"timestamp":"'
"""What stands before the timestamp in a tail; it can't occur after that once more."""


class Emission(msgspec.Struct, frozen=True, gc=False):
    """One event as it was accepted, before it has a place in the log.

    ``user`` is None for a broadcast. ``instant`` is the timestamp in nanoseconds since 1970.
    ``key`` makes a durable one idempotent, ``conflate`` lets a newer transient one replace it.
    ``item`` is its place in the batch it came in, None if it came alone.
    """

    user: str | None
    tail: bytes
    timestamp: str
    instant: int
    durable: bool
    key: str | None = None
    conflate: str | None = None
    item: int | None = None

    @property
    def content(self) -> bytes:
        """The type and payload as bytes: what a second use of the same key must repeat."""
        return content_of(self.tail)


class Event(msgspec.Struct, frozen=True, gc=False):
    """One durable event as the log holds it."""

    seq: int
    tail: bytes


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one emission.

    ``seq`` is None for a transient one. ``delivered`` counts the live devices into whose
    outbox the event was put.
    """

    seq: int | None
    timestamp: str
    durable: bool
    duplicate: bool
    delivered: int


class Cursor(NamedTuple):
    """A place in one log: everything up to and including ``seq`` lies behind it."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """Read ``<epoch>:<seq>``; None when the text is no cursor."""
        match = _CURSOR.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None


def user_id_fault(text: str) -> str | None:
    """Say what keeps a text from being a user id; None if nothing does."""
    if not 0 < len(text) <= MAX_USER:
        return f"expected 1 to {MAX_USER} characters"
    if CONTROL.search(text):
        return "expected no control characters"
    if not text.isascii() and _SURROGATE.search(text):
        return "expected no unpaired surrogates"
    return None


def make_tail(type_json: bytes, payload: bytes, timestamp: str) -> bytes:
    """Join a body's tail from the type and payload, both as JSON, and the timestamp."""
    return b"".join(
        (b'"type":', type_json, b',"payload":', payload, TIMESTAMP_MARK, timestamp.encode(), b'"}')
    )


def content_of(tail: bytes) -> bytes:
    """Return the type and payload part of a tail."""
    return tail[: tail.rindex(TIMESTAMP_MARK)]


def timestamp_of(tail: bytes) -> str:
    """Return the timestamp a tail ends with."""
    return tail[tail.rindex(TIMESTAMP_MARK) + len(TIMESTAMP_MARK) : -2].decode()


class TransientTypes:
    """Which types are transient unless an emission says otherwise.

    ``patterns`` are shell-style wildcards (``*_PROGRESS``), compared case-sensitively.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        joined = "|".join(translate(pattern) for pattern in patterns)
        self._pattern = re.compile(joined) if joined else None

    def __contains__(self, event_type: object) -> bool:
        return (
            self._pattern is not None
            and isinstance(event_type, str)
            and self._pattern.match(event_type) is not None
        )
