"""The way of single events, in log lines of level debug.

Nobody pays for it otherwise: `Trace.on` is asked once for a request, a group or a page, and a
line is made only where it is true. No line holds a payload or a token.
"""

import logging
from collections.abc import Iterable, Sequence

import msgspec
import structlog

from archibald_rt.eventlog import Stored
from archibald_rt.events import Cursor, Emission, Event

_NAME = "archibald_rt.trace"
_MANY = 20
"""How many connections a line names."""


class _Typed(msgspec.Struct, frozen=True):
    type: str


_typed = msgspec.json.Decoder(_Typed)
_logger = structlog.stdlib.get_logger(_NAME)
_level = logging.getLogger(_NAME)


class Trace:
    """Says what becomes of the events of one log, whose ``epoch`` their ids have."""

    __slots__ = ("_epoch",)

    def __init__(self, epoch: str) -> None:
        self._epoch = epoch

    @property
    def on(self) -> bool:
        """Whether anybody reads it. Ask before anything else is called."""
        return _level.isEnabledFor(logging.DEBUG)

    def accepted(self, request_id: str, emissions: Iterable[Emission]) -> None:
        """Say that a request's emissions stand in line."""
        for place, each in enumerate(emissions):
            _logger.debug(
                "event accepted",
                request_id=request_id,
                place=place,
                user=each.user,
                type=_typed.decode(b"{" + each.tail).type,
                durable=each.durable,
                bytes=len(each.tail),
            )

    def group(self, requests: int, seconds: float) -> None:
        """Say that what these requests have in common, a commit, is done."""
        _logger.debug("group committed", requests=requests, ms=round(seconds * 1000, 3))

    def committed(
        self, request_id: str, emissions: Sequence[Emission], stored: Iterable[Stored]
    ) -> None:
        """Say of a request's durable events that they are on disk, or were already."""
        durable = [place for place, each in enumerate(emissions) if each.durable]
        for place, at in zip(durable, stored, strict=True):
            entry = "event is a duplicate" if at.duplicate else "event committed"
            _logger.debug(entry, request_id=request_id, place=place, id=self._id(at.seq))

    def dispatched(
        self, request_id: str, place: int, seq: int | None, delivered: int, live: Iterable[str]
    ) -> None:
        """Say that an event was handed to live devices; those of its user that are ``live``."""
        _logger.debug(
            "event dispatched",
            request_id=request_id,
            place=place,
            id=None if seq is None else self._id(seq),
            delivered=delivered,
            connections=[name for name, _ in zip(live, range(_MANY), strict=False)],
        )

    def replayed(self, user: str, connection: str, events: Sequence[Event]) -> None:
        """Say that events were written to a device that was behind."""
        for each in events:
            _logger.debug("event replayed", id=self._id(each.seq), user=user, connection=connection)

    def _id(self, seq: int) -> str:
        return str(Cursor(self._epoch, seq))
