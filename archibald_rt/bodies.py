"""The JSON bodies of the internal listener: their types, and what is wrong with one. No I/O.

The types say what is allowed by themselves; what no type can say, `emissions` checks.
"""

import json
import re
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from archibald_rt.errors import EmissionError
from archibald_rt.events import CONTROL, Cursor, Event
from archibald_rt.shapes import Count, CursorText, EventType, Key, Timestamp, UserId

MAX_EMISSIONS = 10_000
"""How many emissions one request may hold after expanding ``userIds``."""

MAX_NESTING = 500
"""How deep a payload's arrays and objects may be nested."""

# How much of an unknown key is told back.
_KEY_SHOWN = 100
# "Object contains unknown field `x`", "Object missing required field `x`"
_NAMED_FIELD = re.compile("field `(.*)`", re.DOTALL)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# How large a body is decoded a second time, to say what is wrong with it.
_SEARCHED = 1024 * 1024

_T = TypeVar("_T")

# Whatever their issuer puts there: control characters, too.
TokenId = Annotated[str, Meta(min_length=1, max_length=256)]
Users = Annotated[
    list[UserId],
    Meta(min_length=1, extra_json_schema={"uniqueItems": True, "maxItems": MAX_EMISSIONS}),
]
Payload = Annotated[
    Raw, Meta(description=f"Any JSON value, nested at most {MAX_NESTING} deep; passed on as it is.")
]


class BroadcastBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /internal/broadcast``."""

    type: EventType
    # Not a default: msgspec can't put a `Raw` into a schema.
    payload: Payload = msgspec.field(default_factory=lambda: Raw(b"null"))
    timestamp: Timestamp | UnsetType = UNSET
    durable: bool | UnsetType = UNSET
    key: Key | UnsetType = UNSET
    conflate: Key | UnsetType = UNSET


class EmissionBody(BroadcastBody, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /internal/emit``, or one item of a batch."""

    userId: UserId | UnsetType = UNSET  # noqa: N815 - the name on the wire
    userIds: Users | UnsetType = UNSET  # noqa: N815 - as above


Batch = Annotated[
    list[EmissionBody], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_EMISSIONS})
]
"""The body of ``POST /internal/emit`` as an array; what it may hold is counted elsewhere."""


class ResultBody(msgspec.Struct, frozen=True):
    """What became of one emission."""

    id: CursorText | None
    timestamp: Timestamp
    durable: bool
    duplicate: bool
    delivered: Count


class ResultsBody(msgspec.Struct, frozen=True):
    """What became of a batch, flat and in order."""

    results: list[ResultBody]


class DisconnectBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /internal/users/<id>/disconnect``."""

    revokeBefore: Timestamp | UnsetType = UNSET  # noqa: N815 - the name on the wire


class RevokeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /internal/tokens/revoke``."""

    jti: TokenId
    expires: Timestamp


class DisconnectedBody(msgspec.Struct, frozen=True):
    """How many devices were disconnected."""

    disconnected: Count


_emission = msgspec.json.Decoder(EmissionBody)
_batch = msgspec.json.Decoder(Batch)
_broadcast = msgspec.json.Decoder(BroadcastBody)
_disconnect = msgspec.json.Decoder(DisconnectBody)
_revoke = msgspec.json.Decoder(RevokeBody)


def decode_emission(data: bytes, *, path: str = "") -> EmissionBody:
    """Decode one emission; ``path`` is its place in the request. Raises `EmissionError`."""
    return decode(_emission, data, path)


def decode_batch(data: bytes) -> list[EmissionBody]:
    """Decode an array of emissions. Raises `EmissionError`."""
    return decode(_batch, data)


def decode_broadcast(data: bytes) -> BroadcastBody:
    """Decode an emission without a user. Raises `EmissionError`."""
    return decode(_broadcast, data)


def decode_disconnect(data: bytes) -> DisconnectBody:
    """Decode how a user is to be disconnected, nothing being `{}`. Raises `EmissionError`."""
    return decode(_disconnect, data) if data else DisconnectBody()


def decode_revoke(data: bytes) -> RevokeBody:
    """Decode which token is to be revoked. Raises `EmissionError`."""
    return decode(_revoke, data)


def events_body(epoch: str, events: Sequence[Event], following: int | None) -> bytes:
    """Return the answer that holds events, their tails as they are stored.

    ``following`` is the seq after which there are more, None where there are none.
    """
    items = [b'{"id":"%b:%d",%b' % (epoch.encode(), event.seq, event.tail) for event in events]
    after = None if following is None else str(Cursor(epoch, following))
    return b'{"events":[%b],"next":%b}' % (b",".join(items), msgspec.json.encode(after))


def decode(
    decoder: "msgspec.json.Decoder[_T]", data: bytes, path: str = "", *, whole: str = "the body"
) -> _T:
    """Decode JSON by a type. Raises `EmissionError`.

    ``path`` is its place in what was sent, ``whole`` the name of that if it has none.
    """
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _refused(str(error), path) from None
    except RecursionError:
        raise _unreadable(f"nested deeper than {MAX_NESTING} levels", whole, path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if not data.strip():
            raise _unreadable("expected JSON, it is empty", whole, path) from None
        field = _unpaired_surrogate(data)
        if field is not None:
            place = f"{path}.{field}".lstrip(".")
            raise _unreadable("holds an unpaired surrogate", whole, place) from None
        raise _unreadable(str(error), whole, path) from None


def _unreadable(detail: str, whole: str, path: str) -> EmissionError:
    return EmissionError(f"{path or whole}: {detail}", field=path)


def _unpaired_surrogate(data: bytes) -> str | None:
    """Find the first field with an unpaired surrogate, which msgspec refuses without a place."""
    if len(data) > _SEARCHED or not _SURROGATE.search(data):
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    items = enumerate(value) if isinstance(value, list) else [(None, value)]
    for index, item in items:
        for name, content in item.items() if isinstance(item, dict) else ():
            try:
                json.dumps([name, content], ensure_ascii=False).encode()
            except UnicodeEncodeError:
                shown = name.encode("utf-8", "replace").decode()[:_KEY_SHOWN]
                return shown if index is None else f"[{index}].{shown}"
    return None


def _refused(message: str, path: str) -> EmissionError:
    """Turn what msgspec says of a value into a field's path and a sentence."""
    expected, _, at = message.partition(" - at `$")
    place = path + at.rstrip("`")
    name = _NAMED_FIELD.search(expected)
    if name is not None:
        # An unknown key may be of any length and hold anything.
        shown = CONTROL.sub("?", name[1])[:_KEY_SHOWN]
        place = f"{place}.{shown}"
        expected = expected[: name.start(1)] + shown
    place = place.removeprefix(".")
    expected = expected.replace("`", "")
    return EmissionError(f"{place}: {expected}" if place else expected, field=place)
