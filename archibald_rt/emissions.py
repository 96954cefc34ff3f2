"""Reading emissions: from the bytes of a request to checked `Emission` values. No I/O.

The check is strict (an unknown key, a value of the wrong kind or a name out of bounds is
refused and named) and never decodes the payload: `msgspec.Raw` checks its syntax and keeps
its bytes.
"""

import re
from collections.abc import Container, Sequence

import msgspec
from msgspec import UNSET

from archibald_rt import timestamps
from archibald_rt.bodies import (
    MAX_EMISSIONS,
    MAX_NESTING,
    BroadcastBody,
    EmissionBody,
    decode_batch,
    decode_broadcast,
    decode_emission,
)
from archibald_rt.errors import EmissionError
from archibald_rt.events import CONTROL, Emission, make_tail, user_id_fault

RESERVED_PREFIX = "rt."
"""Types that begin so are the server's own."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class EmissionReader:
    """Reads request bodies by the limits and classes of one server.

    ``transient`` holds the types that are transient unless an emission says otherwise;
    ``max_event`` bounds an event in bytes, as its v1 message (0: unbounded).
    """

    def __init__(
        self, stamp: timestamps.Stamper, transient: Container[str], *, max_event: int
    ) -> None:
        self._stamp = stamp
        self._transient = transient
        self._max_event = max_event

    def read(self, body: bytes) -> tuple[list[Emission], bool]:
        """Read a JSON body of ``/internal/emit``: one emission or an array of them.

        Returns the emissions in order, ``userIds`` expanded, and whether the answer is a
        list of results. Raises `EmissionError`, which names the field.
        """
        _check_utf8(body)
        if body.lstrip()[:1] == b"[":
            items = decode_batch(body)
            return self._expand(items, batch=True), True
        item = decode_emission(body)
        return self._expand([item], batch=False), item.userIds is not UNSET

    def read_lines(self, body: bytes) -> list[Emission]:
        """Read an NDJSON body of ``/internal/emit``: an emission a line, empty lines skipped.

        Raises `EmissionError` with the item's index, counted from 0 without empty lines.
        """
        _check_utf8(body)
        lines = [line for line in body.split(b"\n") if line.strip()]
        items = [decode_emission(line, path=_path(index)) for index, line in enumerate(lines)]
        return self._expand(items, batch=True)

    def read_broadcast(self, body: bytes) -> Emission:
        """Read a JSON body of ``/internal/broadcast``. Raises `EmissionError`."""
        _check_utf8(body)
        item = decode_broadcast(body)
        content = self._content(item, self._stamp.with_instant())
        return self._emission(item, None, *content, index=None)

    def _expand(self, items: Sequence[EmissionBody], *, batch: bool) -> list[Emission]:
        if not items:
            raise EmissionError("the batch is empty: expected at least one emission")
        count = sum(1 if item.userIds is UNSET else len(item.userIds) for item in items)
        if count > MAX_EMISSIONS:
            raise EmissionError(
                f"the request holds {count} emissions, at most {MAX_EMISSIONS} are taken at once",
                status=413,
            )
        emissions: list[Emission] = []
        stamp = self._stamp.with_instant()
        for place, item in enumerate(items):
            index = place if batch else None
            try:
                users = _users(item)
                content = self._content(item, stamp)
                emissions += [self._emission(item, user, *content, index=index) for user in users]
            except EmissionError as error:
                if index is None:
                    raise
                raise _within(index, error) from None
        return emissions

    def _content(self, item: BroadcastBody, stamp: tuple[str, int]) -> tuple[bytes, str, int]:
        """Check what the item says of the event itself; return tail, timestamp and instant."""
        check_type(item.type)
        payload = bytes(item.payload)
        # Line breaks can only stand between tokens here: JSON escapes them within strings.
        payload = payload.translate(_LINE_BREAKS)
        if item.timestamp is UNSET:
            timestamp, instant = stamp
        else:
            timestamp = item.timestamp
            instant = instant_of(timestamp)
        tail = make_tail(msgspec.json.encode(item.type), payload, timestamp)
        size = len(tail) + 1  # and the opening brace
        if self._max_event and size > self._max_event:
            raise _bad(
                "payload",
                f"the event has {size} bytes as a message, at most {self._max_event} are taken",
                status=413,
            )
        check_nesting(payload)
        return tail, timestamp, instant

    def _emission(
        self,
        item: BroadcastBody,
        user: str | None,
        tail: bytes,
        timestamp: str,
        instant: int,
        *,
        index: int | None,
    ) -> Emission:
        if item.durable is not UNSET:
            durable = item.durable
        else:
            durable = user is not None and item.type not in self._transient
        key = None if item.key is UNSET else item.key
        conflate = None if item.conflate is UNSET else item.conflate
        if key is not None and not durable:
            raise _bad("key", "only a durable event can have a key, this one is transient")
        if conflate is not None and durable:
            raise _bad("conflate", "only a transient event can conflate, this one is durable")
        check_name("key", key)
        check_name("conflate", conflate)
        return Emission(user, tail, timestamp, instant, durable, key, conflate, index)


def _users(item: EmissionBody) -> list[str]:
    if item.userId is not UNSET:
        if item.userIds is not UNSET:
            raise _bad("userIds", "expected either userId or userIds, not both")
        check_user("userId", item.userId)
        return [item.userId]
    if item.userIds is UNSET:
        raise _bad("userId", "expected userId or userIds, neither is there")
    seen: set[str] = set()
    for index, user in enumerate(item.userIds):
        if user in seen:
            raise _bad(f"userIds[{index}]", "this user stands in the list twice")
        check_user(f"userIds[{index}]", user)
        seen.add(user)
    return item.userIds


def check_user(field: str, user: str) -> None:
    """Raise `EmissionError` for what is no user's id."""
    if (fault := user_id_fault(user)) is not None:
        raise _bad(field, fault)


def check_name(field: str, name: str | None) -> None:
    """Raise `EmissionError` for a type or a key with a control character; None is right."""
    if name is not None and CONTROL.search(name):
        raise _bad(field, "expected no control characters")


def check_type(event_type: str) -> None:
    """Raise `EmissionError` for a type that no event may have."""
    check_name("type", event_type)
    if event_type.startswith(RESERVED_PREFIX):
        raise _bad("type", f"types that begin with {RESERVED_PREFIX} are reserved")


def check_nesting(payload: bytes) -> None:
    """Raise `EmissionError` for a payload that is nested deeper than devices could read."""
    if _nesting_exceeds(payload, MAX_NESTING):
        raise _bad("payload", f"nested deeper than {MAX_NESTING} levels")


def instant_of(timestamp: str, field: str = "timestamp") -> int:
    """Return a timestamp in nanoseconds since 1970. Raises `EmissionError`."""
    try:
        return timestamps.parse(timestamp)
    except ValueError as error:
        raise _bad(field, str(error)) from None


def _nesting_exceeds(payload: bytes, limit: int) -> bool:
    # Counting brackets settles nearly every payload without looking at its structure.
    if payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    depth = 0
    for byte in _STRING.sub(b"", payload).translate(None, delete=_NO_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False


def _check_utf8(body: bytes) -> None:
    # msgspec accepts invalid UTF-8 inside raw strings, and a browser ends its connection
    # over one such message at every replay: so the body is decoded once, whole.
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise EmissionError(f"the body is not UTF-8: byte {error.start} is wrong") from None


def _path(index: int) -> str:
    return f"[{index}]"


def _bad(field: str, expected: str, *, status: int = 400) -> EmissionError:
    return EmissionError(f"{field}: {expected}", field=field, status=status)


def _within(index: int, error: EmissionError) -> EmissionError:
    """Say of which item of a batch something is wrong."""
    place = _path(index)
    return EmissionError(
        f"{place}.{error.detail}", field=f"{place}.{error.field}", status=error.status
    )


def key_conflict(emissions: Sequence[Emission], indexes: Sequence[int]) -> EmissionError:
    """Return the refusal (409) of a request some of whose keys were used otherwise.

    ``indexes`` are their places among the durable ones of the emissions; the refusal names
    the items of the batch.
    """
    durable = [each for each in emissions if each.durable]
    items = [durable[index].item for index in indexes]
    places = dict.fromkeys(item for item in items if item is not None)
    keys = ", ".join(f"[{item}].key" for item in places) or "key"
    return EmissionError(
        f"{keys}: this key was used before with another type or payload",
        field=keys,
        status=409,
        indexes=tuple(places),
    )
