"""An export of a log in a stream, as `eventlog.exporting` makes one of a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from archibald_rt.errors import LogCopyError
from archibald_rt.eventlog.access import Progress, unheard
from archibald_rt.eventlog.exporting import Export
from archibald_rt.eventlog.nats.definition import existing_stream
from archibald_rt.eventlog.nats.jet import Got
from archibald_rt.eventlog.nats.losses import losses
from archibald_rt.eventlog.nats.moved import committed
from archibald_rt.eventlog.nats.remote import Remote, Where, reached
from archibald_rt.eventlog.nats.scanning import read_state, step
from archibald_rt.eventlog.ndjson import Header, Line, Watermark, write_event, write_header

if TYPE_CHECKING:
    from archibald_rt.revocations import Revocation

_TRIES = 10


def export(
    where: Where, write: Callable[[bytes], object], *, progress: Progress = unheard
) -> Export:
    """Write the log in a stream as lines, whether servers run on it or not.

    ``write`` gets them in pieces. All that was committed before the call is in them. Raises
    `LogOpenError`, and `LogCopyError` where events go faster than they are read.
    """
    with reached(where) as remote:
        exporting = _Exporting(remote, progress)
        for piece in exporting.pieces():
            write(piece)
    return Export(exporting.events, exporting.head)


class _Exporting:
    """One export under way; see the one of a file for what its last line says."""

    def __init__(self, remote: Remote, progress: Progress) -> None:
        self._remote = remote
        self._progress = progress
        opened = remote.run(existing_stream(remote.jet, remote.names))
        self._epoch, self._cap = opened.epoch, opened.cap
        self.head = opened.last
        self.events = 0
        # Where the stream began before anything was read, and up to where it was.
        self._begin = 0
        self._reached = 0
        self._gone: Mapping[bytes, int] = {}
        self._revocations: Sequence[Revocation] = ()
        self._committed = 0
        # The key that was read last: its event lies right behind it.
        self._key = Got(0, "", b"")

    def pieces(self) -> Iterator[bytes]:
        """Yield the lines."""
        first, done = self._first_step()
        last = self._last() if first else 0
        known = self._watermarks()
        revocations = self._revocations
        yield write_header(Header(self._epoch, self.head, last, known, revocations))
        held: Line | None = None
        lines = first
        while True:
            if lines:
                yield b"".join(map(_written, [held, *lines[:-1]] if held else lines[:-1]))
                held = lines[-1]
                self.events += len(lines)
            self._progress("exporting", self._reached - self._begin, self.head - self._begin)
            if done:
                break
            before = self._reached
            lines, done = self._step()
            # What was lost is asked after what was read.
            begin = self._beginning()
            if begin > before + 1 and begin > self._begin:
                raise LogCopyError(
                    f"the stream lost events up to seq {begin - 1} before they were exported;"
                    " export again"
                )
        if held is not None:
            self._look()
            raised = sorted(set(self._watermarks()).difference(known))
            yield _written(msgspec.structs.replace(held, watermarks=raised))

    def _first_step(self) -> tuple[list[Line], bool]:
        """Read up to the first events, with what is gone before them; and whether that was all."""
        for _ in range(_TRIES):
            self._begin = self._beginning()
            self._reached = self._begin - 1
            self._look()
            while True:
                lines, done = self._step()
                if lines or done:
                    break
            if self._beginning() == self._begin:
                return lines, done
        raise LogCopyError("the stream loses events faster than they are exported; export again")

    def _step(self) -> tuple[list[Line], bool]:
        """Read some messages; returns the events among them, and whether there are no more."""
        jet, names = self._remote.jet, self._remote.names
        work = step(jet, names.stream, names.all, after=self._reached, through=self.head)
        found = self._remote.run(work)
        if found:
            self._reached = found[-1].seq
        return [line for line in map(self._line, found) if line is not None], not found

    def _line(self, got: Got) -> Line | None:
        names = self._remote.names
        if names.is_key(got.subject):
            self._key = got
        if not self._is_there(got):
            return None
        # A new leader's clock may be behind the one before.
        self._committed = max(self._committed, committed(got.headers))
        user = names.user(got.subject)
        key: bytes | None = self._key.data
        if self._key.seq != got.seq - 1 or self._key.subject != names.key_of(user, self._key.data):
            key = None
        return Line(got.seq, (user or "").encode(), self._committed, key, got.data)

    def _is_there(self, got: Got) -> bool:
        """Whether a message is an event that is not gone for whoever reads it."""
        names = self._remote.names
        if not names.is_event(got.subject):
            return False
        return got.seq > self._gone.get((names.user(got.subject) or "").encode(), 0)

    def _last(self) -> int:
        """Return the seq of the last event that is to follow."""
        jet, names = self._remote.jet, self._remote.names
        last = self._remote.run(jet.last(names.stream, names.events))
        if last is not None and last.seq <= self.head and self._is_there(last):
            return last.seq
        # It came later, or is gone: what is before it has to be looked at.
        position, seq = self._begin - 1, 0
        while found := self._remote.run(
            step(jet, names.stream, names.events, after=position, through=self.head)
        ):
            seq = max([seq, *(got.seq for got in found if self._is_there(got))])
            position = found[-1].seq
        return seq

    def _look(self) -> None:
        """Learn what is gone, and who is refused."""
        jet, names = self._remote.jet, self._remote.names
        state = self._remote.run(read_state(jet, names.stream))
        self._revocations = state.revocations
        self._gone = self._remote.run(losses(jet, names, state, cap=self._cap))

    def _watermarks(self) -> list[Watermark]:
        # The others say nothing to a device of the new log, which begins behind them.
        found = {user: seq for user, seq in self._gone.items() if seq >= self._begin}
        return sorted((user, min(seq, self.head)) for user, seq in found.items())

    def _beginning(self) -> int:
        names = self._remote.names
        info = self._remote.run(self._remote.jet.ask(f"STREAM.INFO.{names.stream}"))
        if info is None:
            raise LogCopyError(f"[nats] stream {names.stream}: it was deleted meanwhile")
        first: int = max(1, info["state"]["first_seq"])
        return first


def _written(line: Line) -> bytes:
    try:
        return write_event(line)
    except UnicodeDecodeError:
        raise LogCopyError(f"event {line.seq}: its key is not UTF-8; see `log check`") from None
