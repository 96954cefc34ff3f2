"""The lines of an exported log: values in, bytes out, and back. No I/O.

The first line is about the log, each other one is an event. An event's line ends with the
stored bytes from ``"type"`` on, and reading it keeps them, so that a payload goes through an
export and an import as its emitter wrote it.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from archibald_rt import timestamps
from archibald_rt.bodies import TokenId, decode
from archibald_rt.emissions import check_name, check_nesting, check_type, check_user, instant_of
from archibald_rt.errors import EmissionError
from archibald_rt.events import make_tail
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation
from archibald_rt.shapes import EventType, Key

FORMAT = "archibald-rt log"
"""What the first line says of itself."""

VERSION = 1
"""The version of the format."""

MAX_SEQ = 2**62
"""Up to which seq a log can be read in: any log has as many left."""

MAX_MILLISECONDS = 253_402_300_799_999
"""The last millisecond of the year 9999, after which RFC 3339 has no name for one."""

EPOCH = "^[0-9A-Za-z_-]{1,64}$"
"""What an epoch may be, as a pattern: it is a part of cursors."""

Watermark = tuple[bytes, int]
"""A user's id as the log has it (empty for the broadcasts), and the highest seq deleted."""

_Seq = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
_SeqOrNone = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
_Pairs = list[tuple[str | None, _Seq]]


class Header(msgspec.Struct, frozen=True):
    """The line about the log.

    ``head`` is the last seq ever used, ``last`` that of the last event that follows, 0 for
    none. ``watermarks`` say up to where events of a user are gone.
    """

    epoch: str
    head: int
    last: int
    watermarks: Sequence[Watermark]
    revocations: Sequence[Revocation] = ()


class Line(msgspec.Struct, frozen=True, gc=False):
    """The line of one event.

    ``watermarks`` are only at the last one: what was deleted while the log was exported. An
    event at or below its user's is gone too.
    """

    seq: int
    user: bytes
    committed: int
    key: bytes | None
    tail: bytes
    instant: int = 0
    watermarks: Sequence[Watermark] = ()


class _HeaderLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    version: int
    epoch: Annotated[str, Meta(pattern=EPOCH)]
    head: _SeqOrNone
    last: _SeqOrNone
    watermarks: _Pairs
    # Each only where there are any: a release that can't heed them refuses the line.
    revokedUsers: list[tuple[str, str]] | UnsetType = UNSET  # noqa: N815 - the name on the wire
    revokedTokens: list[tuple[TokenId, str]] | UnsetType = UNSET  # noqa: N815 - as above


class _EventLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: _Seq
    userId: str | None  # noqa: N815 - the name on the wire
    committed: Annotated[int, Meta(ge=0, le=MAX_MILLISECONDS)]
    type: EventType
    payload: Raw
    timestamp: str
    key: Key | UnsetType = UNSET
    watermarks: _Pairs | UnsetType = UNSET


_encode = msgspec.json.encode
_header = msgspec.json.Decoder(_HeaderLine)
_event = msgspec.json.Decoder(_EventLine)


def write_header(header: Header) -> bytes:
    """Write the line about the log."""
    users = [
        (each.user, timestamps.from_nanoseconds(each.before))
        for each in header.revocations
        if isinstance(each, UserRevocation)
    ]
    tokens = [
        (each.token_id, timestamps.from_nanoseconds(each.expires))
        for each in header.revocations
        if isinstance(each, TokenRevocation)
    ]
    line = _HeaderLine(
        FORMAT,
        VERSION,
        header.epoch,
        header.head,
        header.last,
        _pairs(header.watermarks),
        users or UNSET,
        tokens or UNSET,
    )
    return _encode(line) + b"\n"


def write_event(line: Line) -> bytes:
    """Write the line of an event. Raises `UnicodeDecodeError` for ids that are not UTF-8."""
    user = _encode(line.user.decode() or None)
    parts = [b'{"seq":%d,"userId":%b,"committed":%d,' % (line.seq, user, line.committed)]
    if line.key is not None:
        parts.append(b'"key":%b,' % _encode(line.key.decode()))
    if line.watermarks:
        parts.append(b'"watermarks":%b,' % _encode(_pairs(line.watermarks)))
    return b"".join((*parts, line.tail, b"\n"))


def read_header(data: bytes) -> Header:
    """Read the line about the log. Raises `EmissionError`, which names the field."""
    line = decode(_header, _utf8(data), whole="unreadable")
    if line.format != FORMAT:
        raise EmissionError(f'format: expected "{FORMAT}"', field="format")
    if line.version != VERSION:
        raise EmissionError(
            f"version: expected {VERSION}; a later release wrote it", field="version"
        )
    if line.last > line.head:
        raise EmissionError("last: expected one not above head", field="last")
    watermarks = _watermarks(line.watermarks, line.head)
    return Header(line.epoch, line.head, line.last, watermarks, _revocations(line))


def read_event(data: bytes, head: int) -> Line:
    """Read the line of an event of a log whose head is this.

    The rules are those of an emission. Raises `EmissionError`, which names the field.
    """
    line = decode(_event, _utf8(data), whole="unreadable")
    if line.seq > head:
        raise EmissionError(f"seq: expected one not above {head}, the log's head", field="seq")
    if line.userId is not None:
        check_user("userId", line.userId)
    check_type(line.type)
    key = None if line.key is UNSET else line.key
    check_name("key", key)
    # As in an emission: between tokens, where it means nothing.
    payload = bytes(line.payload).replace(b"\r", b" ")
    check_nesting(payload)
    return Line(
        line.seq,
        b"" if line.userId is None else line.userId.encode(),
        line.committed,
        None if key is None else key.encode(),
        make_tail(_encode(line.type), payload, line.timestamp),
        instant_of(line.timestamp),
        () if line.watermarks is UNSET else _watermarks(line.watermarks, head),
    )


def _pairs(watermarks: Iterable[Watermark]) -> _Pairs:
    return [(user.decode() or None, seq) for user, seq in watermarks]


def _watermarks(pairs: _Pairs, head: int) -> list[Watermark]:
    found: dict[bytes, int] = {}
    for index, (user, seq) in enumerate(pairs):
        place = f"watermarks[{index}]"
        if user is not None:
            check_user(place, user)
        name = b"" if user is None else user.encode()
        if name in found:
            raise EmissionError(f"{place}: this user stands in the list twice", field=place)
        if seq > head:
            raise EmissionError(f"{place}: expected none above {head}, the log's head", field=place)
        found[name] = seq
    return list(found.items())


def _revocations(line: _HeaderLine) -> Sequence[Revocation]:
    found: list[Revocation] = []
    for index, (user, before) in enumerate([] if line.revokedUsers is UNSET else line.revokedUsers):
        place = f"revokedUsers[{index}]"
        check_user(place, user)
        found.append(UserRevocation(user, instant_of(before, place)))
    tokens = [] if line.revokedTokens is UNSET else line.revokedTokens
    for index, (token_id, expires) in enumerate(tokens):
        instant = instant_of(expires, f"revokedTokens[{index}]")
        found.append(TokenRevocation(token_id, instant))
    return tuple(found)


def _utf8(data: bytes) -> bytes:
    # msgspec accepts invalid UTF-8 inside raw strings.
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise EmissionError(f"unreadable: not UTF-8, byte {error.start} is wrong") from None
    return data
