"""An export as it is read: every line checked in its place, one at a time."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

from archibald_rt.errors import EmissionError, LogCopyError
from archibald_rt.eventlog.access import Progress, unheard
from archibald_rt.eventlog.ndjson import Header, Line, read_event, read_header
from archibald_rt.eventlog.staging import explained

MAX_LINE = 1_000_000_000
"""How many bytes a line may have; SQLite takes no longer value."""

HEARD_EVERY = 1000
"""After how many lines progress is told."""


class Exported:
    """One export, to be read once: the `header`, then the `events`, then the `watermarks`.

    All of it raises `LogCopyError`, which names the line.
    """

    def __init__(self, file: BinaryIO, progress: Progress = unheard) -> None:
        self._file = file
        self._progress = progress
        self._read = 0
        self._header = Header("", 0, 0, ())
        self._watermarks: dict[bytes, int] = {}
        self.number = 0
        """The number of the line that was read last."""
        self.late: Mapping[bytes, int] = {}
        """The watermarks of the last line: what they say of its own users is to be deleted."""

    @property
    def watermarks(self) -> Mapping[bytes, int]:
        """Up to where each user's events are gone, complete after the last event."""
        return self._watermarks

    def header(self) -> Header:
        """Read the line about the log."""
        with self.numbered():
            for data in self._lines():
                self._header = read_header(data)
                self._watermarks = dict(self._header.watermarks)
                return self._header
        raise LogCopyError("the input is empty: expected the line about a log")

    def events(self) -> Iterator[Line]:
        """Yield the events. What is wrong with one may be raised within `numbered`."""
        header, watermarks = self._header, self._watermarks
        total = _size(self._file)
        before = Line(0, b"", 0, None, b"")
        with self.numbered():
            for data in self._lines():
                if before.watermarks:
                    raise _bad("watermarks", f"only the last line has them, not {self.number - 1}")
                line = read_event(data, header.head)
                _check_place(line, before, header, watermarks)
                yield line
                before = line
                if self.number % HEARD_EVERY == 0:
                    self._progress("importing", self._read, total)
        if before.seq != header.last and not before.watermarks:
            raise LogCopyError(
                f"the input is cut off after line {self.number}: it says that seq {header.last}"
                " is the last"
            )
        self.late = dict(before.watermarks)
        for user, seq in before.watermarks:
            watermarks[user] = max(seq, watermarks.get(user, 0))

    @contextmanager
    def numbered(self) -> Iterator[None]:
        """Say which line is meant by an `EmissionError` that is raised within a block."""
        try:
            yield
        except EmissionError as error:
            raise LogCopyError(f"line {self.number}: {error.detail}") from None

    def _lines(self) -> Iterator[bytes]:
        with explained(self._file.name):
            while data := self._file.readline(MAX_LINE + 1):
                self.number += 1
                self._read += len(data)
                if len(data) > MAX_LINE:
                    raise EmissionError(f"longer than {MAX_LINE} bytes, which no log can hold")
                yield data


def repeated_key(first: int) -> EmissionError:
    """Return what is wrong with an event whose key an earlier one of the user has."""
    return _bad("key", f"this user's event {first} has the same")


def _check_place(line: Line, before: Line, header: Header, watermarks: Mapping[bytes, int]) -> None:
    if line.seq <= before.seq:
        raise _bad("seq", f"expected one above {before.seq}, the line before's")
    if line.seq > header.last:
        raise _bad("seq", f"expected none above {header.last}, the last as line 1 has it")
    if line.committed < before.committed:
        raise _bad("committed", f"expected none before {before.committed}, the line before's")
    if line.seq <= watermarks.get(line.user, 0):
        raise _bad("seq", "expected one above the user's watermark in line 1")


def _bad(field: str, expected: str) -> EmissionError:
    return EmissionError(f"{field}: {expected}", field=field)


def _size(file: BinaryIO) -> int | None:
    """Return how many bytes a file has; None for what has no end yet, such as a pipe."""
    with explained(file.name):
        status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None
