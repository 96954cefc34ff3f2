"""An export of a log: its lines in the order of the seqs, in steps, beside a running server."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from archibald_rt.errors import LogCopyError
from archibald_rt.eventlog import revoked, schema
from archibald_rt.eventlog.access import Progress, read_access, unheard
from archibald_rt.eventlog.ndjson import Header, Line, Watermark, write_event, write_header
from archibald_rt.eventlog.transactions import reading

STEP = 1000
"""How many events are read in one read transaction."""

STEP_BYTES = 8 * 1024 * 1024
"""After how many bytes a step ends sooner, so that large events take no more memory."""

_ROWS = """
SELECT commits.seq, commits.user, committed, key, tail
FROM commits LEFT JOIN events ON events.user = commits.user AND events.seq = commits.seq
WHERE commits.seq > ? AND commits.seq <= ? ORDER BY commits.seq LIMIT ?
"""
# Commits may tell of events that have gone.
_FIRST = """
SELECT commits.seq FROM commits
CROSS JOIN events ON events.user = commits.user AND events.seq = commits.seq
ORDER BY commits.seq
"""
_FIRST_AND_LAST = f"SELECT ({_FIRST} ASC LIMIT 1), ({_FIRST} DESC LIMIT 1)"
_IS_GONE = "SELECT 1 FROM watermarks WHERE user = ? AND seq >= ?"
_COUNT = "SELECT count(*) FROM commits"
# Those that can still matter: a device of the new log begins no lower than just below the
# first event, and a watermark there or below says nothing to it.
_WATERMARKS = "SELECT user, min(seq, :head) FROM watermarks WHERE seq >= :first ORDER BY user"


@dataclass(frozen=True, slots=True)
class Export:
    """What became of an export: how many events it holds, and the log's head when it began."""

    events: int
    head: int


def export(path: Path, write: Callable[[bytes], object], *, progress: Progress = unheard) -> Export:
    """Write the log at `path` as lines, whether a server runs on it or not.

    ``write`` gets them in pieces. All that was committed before the call is in them. Raises
    `LogOpenError`, and `LogCopyError` for a row that can't be written.
    """
    with read_access(path) as source, source.connected() as connection:
        exporting = _Exporting(connection, progress)
        for piece in exporting.pieces():
            write(piece)
    return Export(exporting.events, exporting.head)


class _Exporting:
    """One export under way.

    Events that lie ahead may be deleted while it goes on. So the last line is held back until
    it is known what was: it says so, as far as the first line did not.
    """

    def __init__(self, connection: sqlite3.Connection, progress: Progress) -> None:
        self._connection = connection
        self._progress = progress
        self.head = 0
        self.events = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield the lines; no read transaction is open meanwhile."""
        with reading(self._connection):
            self.head = schema.read_head(self._connection)
            epoch = schema.read_epoch(self._connection)
            revocations = revoked.stored(self._connection)
            first, last = self._connection.execute(_FIRST_AND_LAST).fetchone()
            known = watermarks = self._watermarks(first)
            # With the first event in it, if there is one: a line that can say what is lost.
            lines, reached = self._step((first or 1) - 1)
        yield write_header(Header(epoch, self.head, last or 0, known, revocations))
        (total,) = self._connection.execute(_COUNT).fetchone()
        held: Line | None = None
        while reached is not None:
            if lines:
                yield b"".join(map(_written, [held, *lines[:-1]] if held else lines[:-1]))
                held = lines[-1]
                self.events += len(lines)
            self._progress("exporting", self.events, total)
            with reading(self._connection):
                lines, reached = self._step(reached)
                # At the end at one moment with the last look: whatever was missed is in it.
                watermarks = known if reached is not None else self._watermarks(first)
        if held is not None:
            raised = sorted(set(watermarks).difference(known))
            yield _written(msgspec.structs.replace(held, watermarks=raised))

    def _step(self, after: int) -> tuple[list[Line], int | None]:
        """Read some events; also returns up to which seq it looked, None if there is no more."""
        lines: list[Line] = []
        size, reached = 0, None
        rows = self._connection.execute(_ROWS, (after, self.head, STEP))
        for seq, user, committed, key, tail in rows:
            reached = seq
            if tail is not None:
                lines.append(Line(seq, user, committed, key, tail))
                size += len(tail)
            elif self._connection.execute(_IS_GONE, (user, seq)).fetchone() is None:
                raise LogCopyError(f"event {seq} is missing in the log; see `log check`")
            if size >= STEP_BYTES:
                break
        rows.close()
        return lines, reached

    def _watermarks(self, first: int | None) -> Sequence[Watermark]:
        values = {"first": first, "head": self.head}
        return self._connection.execute(_WATERMARKS, values).fetchall()


def _written(line: Line) -> bytes:
    try:
        return write_event(line)
    except UnicodeDecodeError:
        raise LogCopyError(
            f"event {line.seq}: its user or key is not UTF-8; see `log check`"
        ) from None
