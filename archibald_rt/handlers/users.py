"""``/internal/users/<id>/events``: what is retained of one user's stream."""

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from archibald_rt.answers import DEFAULT_LIMIT, MAX_LIMIT, Erased
from archibald_rt.auth import BearerTokens
from archibald_rt.bodies import events_body
from archibald_rt.errors import (
    DrainingError,
    LogBrokenError,
    LogError,
    LogUnavailableError,
    LogUncertainError,
)
from archibald_rt.eventlog import EventLog
from archibald_rt.events import Cursor, user_id_fault
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.hub import Hub
from archibald_rt.upkeep import Upkeep

PAGE_BYTES = 4 * 1024 * 1024
"""How many bytes of events end an answer, too; the last event may reach beyond."""

_LIMIT = re.compile("[1-9][0-9]{0,3}", re.ASCII)
_ENCODED = re.compile("(?:[!-$&-~]|%[0-9A-Fa-f]{2})*", re.ASCII)


class UserHandler(InternalHandler):
    """A handler below ``/internal/users/<id>/``: reads whose path it is."""

    user = ""
    """The user's id, once `prepare` has let the request pass."""

    def prepare(self) -> None:
        """Refuse what names no user, to those who have a token."""
        super().prepare()
        if self._finished:
            return
        try:
            self.user = _user_id(self.request.path.split("/")[3])
        except ValueError as error:
            self.refuse_field("userId", str(error))

    def refuse_field(self, field: str, expected: str) -> None:
        """Answer 400 for one thing that is wrong."""
        self.problem(HTTPStatus.BAD_REQUEST, f"{field}: {expected}", field=field)


class UserEventsHandler(UserHandler):
    """A user's own events and the broadcasts, page by page."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        hub: Hub,
        log: EventLog,
        upkeep: Upkeep,
        broken: Callable[[BaseException], None],
    ) -> None:
        """Take the tokens, where events are, and whom to tell that they can't be relied on."""
        super().initialize(emit_tokens, read_tokens)
        self._hub = hub
        self._event_log = log
        self._upkeep = upkeep
        self._broken = broken
        self._reading: asyncio.Task[bytes] | None = None

    async def get(self) -> None:
        """Answer with a page of what was dispatched, oldest first."""
        if self._finished:
            return
        given = "limit" in self.request.query_arguments
        limit = self.query("limit") if given else str(DEFAULT_LIMIT)
        if not _LIMIT.fullmatch(limit) or int(limit) > MAX_LIMIT:
            self.refuse_field("limit", f"expected a number from 1 to {MAX_LIMIT}")
            return
        try:
            after = self._after()
        except ValueError as error:
            self.refuse_field("after", str(error))
            return
        self._reading = asyncio.get_running_loop().create_task(self._page(after, int(limit)))
        try:
            body = await self._reading
        except asyncio.CancelledError:
            # There is nobody to answer any more.
            return
        except LogError as error:
            if isinstance(error, LogBrokenError):
                self._broken(error)
            self.refuse_for_now(str(error))
            return
        self.set_header("Content-Type", "application/json")
        self.finish(body)

    async def delete(self) -> None:
        """Erase the user's own events, and answer how many there were."""
        if self._finished:
            return
        try:
            erased = await self._upkeep.erase(self.user)
        except (DrainingError, LogUnavailableError) as error:
            if isinstance(error, DrainingError):
                self.set_header("Connection", "close")
            self.refuse_for_now(f"{error}; ask again to have the rest erased")
        except (LogBrokenError, LogUncertainError) as error:
            self.refuse_unknown(f"{error}; they may have been erased: ask again")
        else:
            self.answer(Erased(erased))

    def on_connection_close(self) -> None:
        """Read no further: a page may wait long for its turn, at a drain longer than the log."""
        super().on_connection_close()
        if self._reading is not None:
            self._reading.cancel()

    def _after(self) -> int:
        """Return the seq to begin after. Raises `ValueError` for what is no place in this log."""
        text = self.query("after")
        if not text:
            return 0
        cursor = Cursor.parse(text)
        if cursor is None:
            raise ValueError("expected a cursor, the id of an event")
        if cursor.epoch != self._event_log.epoch:
            raise ValueError("expected a cursor of this log, this one is another's")
        # Another server may be further than this one.
        if cursor.seq > self._hub.dispatched and self._event_log.peers is None:
            raise ValueError("expected a cursor of this log, this one lies ahead of it")
        return cursor.seq

    async def _page(self, after: int, limit: int) -> bytes:
        # What is committed and not dispatched yet no device has; it comes with a later page.
        log, user, through = self._event_log, self.user, self._hub.dispatched
        page = await log.page(
            user, after=after, through=through, max_events=limit, max_bytes=PAGE_BYTES
        )
        more = False
        if not page.complete:
            # Whether the page was full by chance just where the stream ends.
            rest = await log.page(
                user, after=page.through, through=through, max_events=1, max_bytes=1
            )
            more = bool(rest.events)
        return events_body(log.epoch, page.events, page.through if more else None)


def _user_id(segment: str) -> str:
    """Read a user id from a path. Raises `ValueError` with what was expected instead."""
    if not _ENCODED.fullmatch(segment):
        raise ValueError("expected it percent-encoded")
    try:
        user = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise ValueError("expected UTF-8, percent-encoded") from None
    if (fault := user_id_fault(user)) is not None:
        raise ValueError(fault)
    return user
