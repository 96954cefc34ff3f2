"""What an emitter sends and what it is answered: values and bytes, no I/O.

::

    ArchibaldError
    ├── AuthError                  the emit token was refused (it lives in ``errors``)
    └── EmitterError               an emission was not accepted
        ├── EmissionRefusedError   as it is, it never will be
        ├── NotEmittedError        the server couldn't take it in time; it was not emitted
        ├── OutcomeUnknownError    it may have been emitted, or not
        └── EmitterClosedError     the emitter is closed; it was not emitted
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from archibald_rt.errors import ArchibaldError, AuthError

# What can be wrong with one emission of a batch; anything else is the request's or the server's.
_OF_ONE_ITEM = frozenset({400, 409, 413})
_INDEXED = re.compile(r"\[(\d+)\]\.?(.*)", re.DOTALL)
_DETAIL_SHOWN = 300


class Emitted(msgspec.Struct, frozen=True):
    """What became of an emission.

    ``id`` is its cursor, None for a transient one. ``duplicate``: it was stored before, under
    the same key, by this emitter's own first try or by somebody else. ``delivered`` counts the
    live devices into whose outbox it was put; it is no proof of receipt, and 0 for a duplicate.
    """

    id: str | None
    timestamp: str
    durable: bool
    duplicate: bool
    delivered: int


class EmitterError(ArchibaldError):
    """An emission was not accepted; the message is one line."""


class EmissionRefusedError(EmitterError):
    """The server won't have this emission as it is; nothing of it was stored or delivered.

    ``status`` is that of the answer (400, 409, 413 and others), ``field`` names what is wrong,
    such as ``userId``; it is empty where the server named nothing.
    """

    def __init__(self, status: int, detail: str, field: str = "") -> None:
        super().__init__(status, detail, field)
        self.status = status
        self.detail = detail
        self.field = field

    def __str__(self) -> str:
        return f"{self.status} {self.detail}"


class NotEmittedError(EmitterError):
    """The server could not be reached, or could not take it, for too long: it was not emitted."""


class OutcomeUnknownError(EmitterError):
    """No answer told whether it was emitted: a durable one may be stored, or may be yet."""


class EmitterClosedError(EmitterError):
    """The emitter is closed, or was cut off while it closed; this one was never sent."""


class Item(msgspec.Struct, frozen=True):
    """One emission as it is sent, all but its key, which stands last."""

    type: str
    payload: msgspec.Raw
    userId: str | UnsetType = UNSET  # noqa: N815 - the name on the wire
    timestamp: str | UnsetType = UNSET
    durable: bool | UnsetType = UNSET
    conflate: str | UnsetType = UNSET


class Accepted(msgspec.Struct, frozen=True):
    """All of the request was accepted."""

    results: Sequence[Emitted]


class Refused(msgspec.Struct, frozen=True):
    """Nothing of the request was accepted, for what is wrong with those at ``indexes``.

    With none of them the server didn't say which.
    """

    error: ArchibaldError
    indexes: Sequence[int]


class Later(msgspec.Struct, frozen=True):
    """Nothing of the request was accepted; the same may be in so many seconds (None: unsaid)."""

    reason: str
    after: float | None = None


class Unknown(msgspec.Struct, frozen=True):
    """Whether the request was accepted is not known."""

    reason: str


class _Results(msgspec.Struct):
    results: list[Emitted]


class _Problem(msgspec.Struct):
    detail: str = ""
    field: str = ""
    indexes: list[int] = []


def payload_json(payload: object) -> msgspec.Raw:
    """Return a payload as JSON: bytes are JSON already, anything else is a value.

    Raises TypeError for a value that JSON has not, ValueError for bytes that are no JSON.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        payload = bytes(payload)
        try:
            payload.decode()
            # Whatever is put into a batch as it is must not be able to end its item.
            return msgspec.json.decode(payload, type=msgspec.Raw).copy()
        except RecursionError:
            raise ValueError("the payload is nested too deep") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"the payload is no JSON: {error}") from None
    try:
        return msgspec.Raw(msgspec.json.encode(payload))
    except RecursionError:
        raise ValueError("the payload is nested too deep") from None


def emission_json(item: Item, key: str) -> tuple[bytes, bytes]:
    """Return an emission without its closing brace, and what its key adds to that.

    Raises ValueError for a text that UTF-8 has not.
    """
    head = msgspec.json.encode(item)[:-1]
    return head, b',"key":' + msgspec.json.encode(key) if key else b""


def judge(
    status: int, retry_after: str | None, body: bytes, count: int, *, alone: bool
) -> Accepted | Refused | Later | Unknown:
    """Read the answer to a request of ``count`` emissions; ``alone``: of one, not in a list."""
    if status == HTTPStatus.OK:
        return _accepted(body, count, alone=alone)
    problem = _problem(body, status)
    reason = f"{status} {problem.detail}"
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return Later(reason, seconds)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unknown(reason)
    every = range(count)
    if status == HTTPStatus.UNAUTHORIZED:
        return Refused(AuthError("the server refused the emit token"), every)
    if status not in _OF_ONE_ITEM or count == 1:
        return Refused(_refusal(status, problem), every)
    indexes = problem.indexes
    if not indexes and (named := _INDEXED.match(problem.field)):
        indexes = [int(named[1])]
    return Refused(_refusal(status, problem), [index for index in indexes if index < count])


def _accepted(body: bytes, count: int, *, alone: bool) -> Accepted | Unknown:
    try:
        if alone:
            return Accepted([msgspec.json.decode(body, type=Emitted)])
        results = msgspec.json.decode(body, type=_Results).results
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Unknown(f"the answer can't be read: {error}")
    if len(results) != count:
        return Unknown(f"{len(results)} results for {count} emissions")
    return Accepted(results)


def _problem(body: bytes, status: int) -> _Problem:
    try:
        problem: Any = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem()
    if not problem.detail:
        problem.detail = HTTPStatus(status).phrase if status in list(HTTPStatus) else "no reason"
    return problem  # type: ignore[no-any-return]  # one of the two above


def _refusal(status: int, problem: _Problem) -> EmissionRefusedError:
    """Say what is wrong with an emission as if it had been sent alone."""
    field, detail = problem.field, problem.detail
    if indexed := _INDEXED.match(field.partition(",")[0]):
        field = indexed[2]
        detail = f"{field}: {detail.partition(': ')[2]}".removeprefix(": ")
    return EmissionRefusedError(status, " ".join(detail.split())[:_DETAIL_SHOWN], field)
