"""Whether a log is whole: what SQLite says of the file, and what only we know of its rows."""

import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
from msgspec import Raw

from archibald_rt.emissions import instant_of
from archibald_rt.errors import EmissionError, LogBrokenError
from archibald_rt.eventlog import revoked, schema
from archibald_rt.eventlog.access import Progress, Source, read_access, unheard
from archibald_rt.eventlog.ndjson import EPOCH, MAX_MILLISECONDS
from archibald_rt.eventlog.transactions import reading
from archibald_rt.events import make_tail

STEP = 1000
"""How many rows are looked at in one read transaction."""

SQLITES_OWN = 20
"""How many faults SQLite looks for; what is damaged once is damaged in many places."""

_SHOWN = 60

_COMMITS = """
SELECT commits.seq, commits.user, committed, events.seq, watermarks.seq
FROM commits
LEFT JOIN events ON events.user = commits.user AND events.seq = commits.seq
LEFT JOIN watermarks ON watermarks.user = commits.user
WHERE commits.seq > :seq AND commits.seq <= :through ORDER BY commits.seq LIMIT :step
"""
_EVENTS = """
SELECT events.user, events.seq, instant, key, tail, commits.seq, watermarks.seq
FROM events
LEFT JOIN commits ON commits.seq = events.seq AND commits.user = events.user
LEFT JOIN watermarks ON watermarks.user = events.user
WHERE (events.user, events.seq) > (:user, :seq)
    AND (events.seq <= :through OR commits.seq IS NULL)
ORDER BY events.user, events.seq LIMIT :step
"""
_HIGHEST = """
SELECT max(
    coalesce((SELECT max(seq) FROM commits), 0), coalesce((SELECT max(seq) FROM watermarks), 0)
)
"""


class _Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    payload: Raw
    timestamp: str


_tail = msgspec.json.Decoder(_Tail)


def check(path: Path, *, full: bool = False, progress: Progress = unheard) -> Iterator[str]:
    """Yield what is wrong with the log at `path`, a plain line each; nothing if it is good.

    Looks at every row, in steps, beside a running server or without one. SQLite looks at
    every page first, in one read transaction, and with ``full`` also at whether its indexes
    and tables say the same; where it finds a fault, nothing else is looked for. Raises
    `LogOpenError` for a file that can't be read at all.
    """
    with read_access(path) as source, source.connected() as connection:
        progress("reading every page", 0, None)
        if faults := _of_the_file(source, full=full):
            yield from faults
            return
        yield from _of_meta(connection)
        yield from _of_revocations(connection)
        # What a server appends from here on is not looked at, or there might be no end.
        (through,) = connection.execute(_HIGHEST).fetchone()
        (total,) = connection.execute("SELECT count(*) FROM commits").fetchone()
        values = {"through": through, "step": STEP}
        yield from _of_commits(connection, values, total, progress)
        yield from _of_events(connection, values, total, progress)


def _of_the_file(source: Source, *, full: bool) -> list[str]:
    """Let SQLite look at every page.

    In a thread and by a connection of its own: it takes minutes, in which this thread could
    not be interrupted. One that is goes on without waiting for it.
    """
    answer: Future[list[str]] = Future()

    def look() -> None:
        try:
            answer.set_result(_look(source, "integrity_check" if full else "quick_check"))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=look, daemon=True).start()
    return answer.result()


def _look(source: Source, how: str) -> list[str]:
    with source.connected() as connection:
        try:
            rows = connection.execute(f"PRAGMA {how}({SQLITES_OWN})").fetchall()
        except sqlite3.DatabaseError:
            # What it had found is lost where it can't go on; so it is asked for the first only.
            rows = connection.execute(f"PRAGMA {how}(1)").fetchall()
    # A row may have several lines.
    return [line for (text,) in rows for line in text.splitlines() if line != "ok"]


def _of_meta(connection: sqlite3.Connection) -> Iterator[str]:
    with reading(connection):
        row = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        head = schema.read_head(connection)
        (highest,) = connection.execute(_HIGHEST).fetchone()
    if row is None:
        yield "the log has no epoch"
    elif not (isinstance(row[0], str) and re.search(EPOCH, row[0])):
        yield f"the epoch {_shown(row[0])} can't be a part of a cursor"
    if highest > head:
        yield f"seq {highest} was given, but the next would be {head + 1}"


def _of_revocations(connection: sqlite3.Connection) -> Iterator[str]:
    try:
        with reading(connection):
            revoked.stored(connection)
    except LogBrokenError as error:
        yield str(error)


def _of_commits(
    connection: sqlite3.Connection, values: dict[str, int], total: int, progress: Progress
) -> Iterator[str]:
    last, done, before = 0, 0, 0
    while rows := connection.execute(_COMMITS, {**values, "seq": last}).fetchall():
        for seq, user, committed, event, watermark in rows:
            # Pruning deletes events first, and what tells of them later.
            if event is None and (watermark is None or watermark < seq):
                yield f"commit {seq}: its event, of {_named(user)}, is missing"
            if not (isinstance(committed, int) and 0 <= committed <= MAX_MILLISECONDS):
                yield f"commit {seq}: its time {_shown(committed)} is none"
            elif committed < before:
                yield f"commit {seq}: its time {committed} is before the last one's, {before}"
            else:
                before = committed
        last = rows[-1][0]
        done += len(rows)
        progress("checking commits", done, total)


def _of_events(
    connection: sqlite3.Connection, values: dict[str, int], total: int, progress: Progress
) -> Iterator[str]:
    user, seq, done = b"", 0, 0
    while True:
        found: list[str] = []
        before = done
        # Row by row, since a step of large events need not fit into memory; said after it,
        # since whoever hears it may take their time.
        for row in connection.execute(_EVENTS, {**values, "user": user, "seq": seq}):
            user, seq, *_ = row
            done += 1
            fault = _of_event(*row)
            if fault is not None:
                found.append(f"event {seq} of {_named(user)}: {fault}")
        yield from found
        if done == before:
            return
        progress("checking events", done, total)


def _of_event(
    user: bytes,
    seq: int,
    instant: int,
    key: bytes | None,
    tail: bytes,
    commit: int | None,
    watermark: int | None,
) -> str | None:
    if commit is None:
        return "it has no commit"
    if watermark is not None and watermark >= seq:
        return f"it was to be deleted, together with all up to {watermark}"
    try:
        for text in (user, key or b"", tail):
            text.decode()
    except (UnicodeDecodeError, AttributeError) as error:
        return f"it is not UTF-8: {error}"
    return _of_message(tail, instant)


def message_fault(tail: bytes) -> str | None:
    """Say what is wrong with the message of an event; None if nothing is."""
    fault = _read(tail)
    return fault if isinstance(fault, str) else None


def _of_message(tail: bytes, instant: int) -> str | None:
    right = _read(tail)
    if isinstance(right, str):
        return right
    if instant != right:
        return f"its instant is {_shown(instant)}, its timestamp says {right}"
    return None


def _read(tail: bytes) -> int | str:
    """Return the instant of a message, or what is wrong with it."""
    try:
        message = _tail.decode(b"{" + tail)
        instant = instant_of(message.timestamp)
    except EmissionError as error:
        return error.detail
    except (msgspec.MsgspecError, RecursionError) as error:
        return f"its message can't be read: {error}"
    event_type = msgspec.json.encode(message.type)
    if make_tail(event_type, bytes(message.payload), message.timestamp) != tail or b"\n" in tail:
        return "its message is not written as the server writes it"
    return instant


def _named(user: object) -> str:
    if user == schema.EVERYBODY:
        return "the broadcasts"
    return f"user {_shown(user.decode(errors='replace') if isinstance(user, bytes) else user)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
