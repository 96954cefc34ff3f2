"""An import of an exported log into a stream: every line checked, all of it or nothing.

Seqs are new ones, rising as the old ones did. Each atomic batch is stored only behind the one
before it, so that nothing of somebody else's can come in between.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import BinaryIO

from archibald_rt.errors import EmissionError, LogCopyError
from archibald_rt.eventlog.access import Progress, unheard
from archibald_rt.eventlog.base import Retention
from archibald_rt.eventlog.exported import Exported, repeated_key
from archibald_rt.eventlog.importing import Import
from archibald_rt.eventlog.nats.appending import MOST
from archibald_rt.eventlog.nats.jet import Message, SequenceError
from archibald_rt.eventlog.nats.losses import counts
from archibald_rt.eventlog.nats.moved import moved, seq_before
from archibald_rt.eventlog.nats.remote import Remote, Where, reached
from archibald_rt.eventlog.nats.scanning import step
from archibald_rt.eventlog.nats.staging import Staged, staged
from archibald_rt.eventlog.ndjson import MAX_SEQ, Header, Line

BATCH_BYTES = 4 * 1024 * 1024
"""After how many bytes a batch ends sooner, so that large events take no more memory."""

OVERHEAD = 4096
"""How many bytes a message may need besides its event: JetStream counts headers as well."""


def import_(
    where: Where,
    file: BinaryIO,
    *,
    retention: Retention = Retention(),  # noqa: B008 - frozen
    replicas: int = 1,
    progress: Progress = unheard,
) -> Import:
    """Read an export from `file` into a stream that is not there yet, or empty.

    Keys, bytes and the order are kept; seqs and the epoch are new ones, and ages count from
    now. Nothing is served before all of it is there. Raises `LogOpenError` for a log that holds
    something, and `LogCopyError`, which names the line, for what can't be read.
    """
    exported = Exported(file, progress)
    with reached(where) as remote, staged(remote, retention, replicas=replicas) as stream:
        header = exported.header()
        for revocation in header.revocations:
            remote.run(stream.state.revoke(revocation))
        writing = _Writing(remote, exported, header)
        with exported.numbered():
            for line in exported.events():
                writing.add(line)
        writing.end()
        deleted = _lose(remote, stream, writing.lost(), exported.late)
        retained = remote.run(_retained(remote, retention.max_events_per_user))
        remote.run(stream.finish(writing.last))
    return Import(retained, writing.last, stream.epoch, writing.events - deleted - retained)


class _Writing:
    """The events of one import, on their way in batches."""

    def __init__(self, remote: Remote, exported: Exported, header: Header) -> None:
        self._remote = remote
        self._exported = exported
        self.events = 0
        self.last = 0
        """The last seq that was stored."""
        self._messages: list[Message] = []
        self._size = 0
        # The keys of this batch: the seq of the event as it was, and its line.
        self._keys: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        # The first event of each batch: its seq as it was, and behind which it came.
        self._begun: list[tuple[int, int]] = []
        # What is gone, the lowest last; and up to which seq it is here.
        self._waiting = sorted(header.watermarks, key=lambda each: -each[1])
        self._lost: dict[bytes, int] = {}

    def add(self, line: Line) -> None:
        """Take an event, in its turn."""
        most = self._remote.jet.connection.max_payload - OVERHEAD
        if len(line.tail) > most:
            raise EmissionError(
                f"unreadable: an event of {len(line.tail)} bytes; the NATS servers' max_payload"
                f" allows {most}"
            )
        # A loss and a key take a message of their own.
        if len(self._messages) > MOST - 3 or self._size > BATCH_BYTES:
            self._flush()
        if not self._messages:
            self._begun.append((line.seq, self.last))
        self._note(line.seq)
        names, user = self._remote.names, line.user.decode() or None
        if line.key is not None:
            if (first := self._keys.get((line.user, line.key))) is not None:
                raise repeated_key(first[0])
            self._keys[line.user, line.key] = line.seq, self._exported.number
            self._messages.append(Message(names.key(user, line.key.decode()), line.key, 0))
        headers = moved(line.seq, line.committed)
        self._messages.append(Message(names.durable(user), line.tail, headers=headers))
        self._size += len(line.tail)
        self.events += 1

    def end(self) -> None:
        """Store the rest of what was taken, when no more comes."""
        self._note(MAX_SEQ + 1)
        self._flush()

    def _flush(self) -> None:
        if not self._messages:
            return
        try:
            self.last = self._remote.run(self._remote.jet.store(self._messages, after=self.last))
        except SequenceError:
            raise self._explained() from None
        self._messages, self._size, self._keys = [], 0, {}

    def lost(self) -> dict[bytes, int]:
        """Return up to where whose events are gone, in the seqs of here, after the end."""
        for user, seq in self._exported.late.items():
            self._lost[user] = max(self._place(seq), self._lost.get(user, 0))
        return self._lost

    def _note(self, before: int) -> None:
        """Give what is gone before a seq, and after the last event, a seq of its own."""
        gone: list[bytes] = []
        while self._waiting and self._waiting[-1][1] < before:
            gone.append(self._waiting.pop()[0])
        # Nobody stands before the first event.
        if gone and self.events:
            self._messages.append(Message(self._remote.names.probe, b""))
            place = self.last + len(self._messages)
            self._lost.update((user, place) for user in gone)

    def _place(self, seq: int) -> int:
        """Return the seq here of the last event up to a seq of there, 0 for none."""
        batch = bisect_right(self._begun, seq, key=itemgetter(0)) - 1
        place, position = 0, self._begun[batch][1] if batch >= 0 else self.last
        jet, names = self._remote.jet, self._remote.names
        while found := self._remote.run(
            step(jet, names.stream, names.events, after=position, through=self.last)
        ):
            for got in found:
                before = seq_before(got.headers)
                if before is None or before > seq:
                    return place
                place = position = got.seq
        return place

    def _explained(self) -> LogCopyError:
        """Return why a batch was refused."""
        jet, names = self._remote.jet, self._remote.names
        for (user, key), (_, number) in self._keys.items():
            name = user.decode() or None
            last = self._remote.run(jet.last(names.stream, names.key_of(name, key)))
            if last is None:
                continue
            work = step(
                jet, names.stream, names.durable(name), after=last.seq, through=last.seq + 1
            )
            for event in self._remote.run(work):
                fault = repeated_key(seq_before(event.headers) or event.seq)
                return LogCopyError(f"line {number}: {fault.detail}")
        return LogCopyError(f"[nats] stream {names.stream}: somebody else stores in it")


def _lose(remote: Remote, stream: Staged, lost: Mapping[bytes, int], late: Iterable[bytes]) -> int:
    """Note what is gone, and delete what was exported before it went; returns how much that was."""
    jet, names = remote.jet, remote.names
    for user, seq in lost.items():
        # Before all that there is nobody stands.
        if not seq:
            continue
        remote.run(stream.state.erase(user.decode() or None, seq))
    deleted = 0
    for user in late:
        name = user.decode() or None
        for subject in (names.keys_of(name), names.durable(name)):
            body = {"filter": subject, "seq": lost.get(user, 0) + 1}
            answer = remote.run(jet.ask(f"STREAM.PURGE.{names.stream}", body))
            if answer is not None and subject == names.durable(name):
                deleted += answer["purged"]
    return deleted


async def _retained(remote: Remote, cap: int) -> int:
    """Return how many events the stream has kept, by its limits."""
    total = 0
    async for part in counts(remote.jet, remote.names, remote.names.events):
        total += sum(min(count, cap) if cap else count for count in part.values())
    return total
