"""Comparing what was sent, answered, refused and received with what the log holds at the end."""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from archibald_rt import timestamps
from archibald_rt.eventlog.nats.definition import EPOCH
from archibald_rt.eventlog.nats.names import Names
from faults.devices import read_message
from faults.emitters import Emitter, Sent, uid_of
from faults.load import Load, Witness
from natswire import Wire


class Row(NamedTuple):
    """An event as an independent reader finds it in the file; no user means everybody."""

    seq: int
    user: str | None
    timestamp: str
    payload: bytes
    uid: str


class Stored(NamedTuple):
    """What the log holds."""

    epoch: str
    head: int
    """The last seq that was ever given."""
    rows: list[Row]
    sound: bool
    """Whether SQLite finds nothing wrong with the file."""
    others: Collection[int] = ()
    """What seqs are taken by what is no event: in a stream by keys and probes."""

    def stream(self, user: str) -> list[Row]:
        """Return what a user is owed."""
        return [row for row in self.rows if row.user in {None, user}]


def stored_in(log: Path, users: Collection[str] | None = None) -> Stored:
    """Read a log, which must not be written to meanwhile; all of it, or what these users are owed.

    A file of which only a part is read need not be sound.
    """
    connection = sqlite3.connect(f"{log.as_uri()}?mode=ro", uri=True)
    try:
        (epoch,) = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        (head,) = connection.execute("SELECT ifnull(max(seq), 0) FROM sqlite_sequence").fetchone()
        if users is None:
            found = connection.execute("SELECT seq, user, tail FROM events").fetchall()
            sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        else:
            of_one = "SELECT seq, user, tail FROM events WHERE user = ?"
            found, sound = [], True
            for user in ("", *users):
                found += connection.execute(of_one, (user.encode(),)).fetchall()
    finally:
        connection.close()
    rows = []
    for seq, user, tail in sorted(found):
        message = read_message(b"{" + tail)
        payload = bytes(message.payload)
        whose = user.decode() or None
        rows.append(Row(seq, whose, message.timestamp, payload, uid_of(payload)))
    return Stored(epoch, head, rows, sound)


def stored_in_stream(url: str, stream: str) -> Stored:
    """Read a log in JetStream."""
    names = Names(stream)
    with Wire(url) as wire:
        epoch = wire.ask(f"STREAM.INFO.{stream}")["config"]["metadata"][EPOCH]
        messages = wire.read(stream)
    rows, others = [], []
    for seq, subject, data in messages:
        if names.is_event(subject):
            message = read_message(b"{" + data)
            payload = bytes(message.payload)
            user = names.user(subject)
            rows.append(Row(seq, user, message.timestamp, payload, uid_of(payload)))
        else:
            others.append(seq)
    return Stored(epoch, messages[-1].seq, rows, True, others)  # noqa: FBT003 - JetStream says nothing of it


def audit(log: Path | Stored, load: Load, users: Collection[str] | None = None) -> Counter[str]:
    """Count what is missing, double, out of order or wrong; empty where all is well.

    With ``users`` only what they are owed is read of the log, which others wrote to as well.
    """
    stored = log if isinstance(log, Stored) else stored_in(log, users)
    sent = {uid: each for emitter in load.emitters for uid, each in emitter.sent.items()}
    wrong = Counter({"file damaged": int(not stored.sound)})
    wrong.update(_judge_log(stored, sent))
    if users is None:
        places = {row.seq for row in stored.rows}.union(stored.others)
        wrong["holes in the log"] = len(places.symmetric_difference(range(1, stored.head + 1)))
    for emitter in load.emitters:
        wrong.update(_judge_answers(stored, emitter))
    for watcher in load.watchers:
        wrong.update(_judge_device(stored, watcher.witness, sent))
    return +wrong


def lost(wrong: Mapping[str, int]) -> int:
    """Return how much is wrong, and print what, for whoever reads why the test failed."""
    if wrong:
        print(dict(wrong))  # noqa: T201 - as above
    return sum(wrong.values())


def _judge_log(stored: Stored, sent: Mapping[str, Sent]) -> Counter[str]:
    wrong = Counter[str]()
    times = Counter((row.user, row.uid) for row in stored.rows)
    wrong["stored twice"] = sum(count - 1 for count in times.values())
    for row in stored.rows:
        what = sent.get(row.uid)
        if what is None or row.payload != what.payload or not what.durable:
            wrong["stored otherwise than sent"] += 1
        elif what.refused:
            wrong["refused, yet stored"] += 1
    instants = [timestamps.parse(row.timestamp) for row in stored.rows]
    wrong["stamps that go back"] = sum(b < a for a, b in pairwise(instants))
    wrong["stored out of order"] = _disorder([row.uid for row in stored.rows], sent)
    return wrong


def _judge_answers(stored: Stored, emitter: Emitter) -> Counter[str]:
    wrong = Counter({"answers": len(emitter.wrong)})
    by_id = {f"{stored.epoch}:{row.seq}": (row.user, row.uid) for row in stored.rows}
    for cursor, event in emitter.answered.items():
        wrong["answered, not stored"] += by_id.get(cursor) != event
    there = set(by_id.values())
    for batch in emitter.batches:
        wrong["half a batch"] += len(there.intersection(batch)) not in {0, len(set(batch))}
    return wrong


def _judge_device(stored: Stored, witness: Witness, sent: Mapping[str, Sent]) -> Counter[str]:
    wrong = Counter({"out of place": len(witness.faults), "gaps": len(witness.gaps)})
    owed = {
        f"{stored.epoch}:{row.seq}": (row.timestamp, row.payload)
        for row in stored.stream(witness.user)
    }
    got = {cursor: event for cursor, *event in witness.told if cursor is not None}
    wrong["not delivered"] = len(owed.keys() - got.keys())
    wrong["delivered, not stored"] = len(got.keys() - owed.keys())
    wrong["delivered otherwise"] = sum(
        tuple(got[cursor]) != owed[cursor] for cursor in got.keys() & owed.keys()
    )
    wrong["delivered twice"] = len(witness.seqs) - len(set(witness.seqs))
    wrong["delivered out of order"] = witness.seqs != sorted(witness.seqs)
    once = Counter[str]()
    for cursor, _, payload in witness.told:
        what = sent.get(uid_of(payload))
        if what is None or witness.user not in what.users or payload != what.payload:
            wrong["another's, or never sent"] += 1
        elif what.refused:
            wrong["refused, yet delivered"] += 1
        if cursor is None and (what is None or not what.again):
            once[uid_of(payload)] += 1
    wrong["transient twice"] = sum(count - 1 for count in once.values())
    wrong["overtaken"] = _disorder(
        [
            uid_of(payload)
            for cursor, _, payload in witness.told
            if cursor is not None or not sent[uid_of(payload)].again
        ],
        sent,
    )
    return wrong


def _disorder(uids: Iterable[str], sent: Mapping[str, Sent]) -> int:
    """Count what an emitter sent before something that it follows here."""
    newest: dict[str, int] = {}
    count = 0
    for uid in uids:
        emitter = uid.partition("-")[0]
        number = sent[uid].number if uid in sent else -1
        count += number < newest.get(emitter, -1)
        newest[emitter] = max(number, newest.get(emitter, -1))
    return count
