"""Comparing what was sent, answered, refused and received with what the stream holds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from cluster.devices import Wanderer
from cluster.emitters import Resident
from faults.audit import Stored
from faults.devices import seq_of
from faults.emitters import Sent, uid_of


class Verdict(NamedTuple):
    """What was counted; ``wrong`` is empty where all is well."""

    expected: int
    """How many durable events devices were to get, all of them together."""
    told_lost: int
    """How many of those they did not get and were told so."""
    wrong: Counter[str]


_Stream = Mapping[str, tuple[str, bytes]]
"""What a user is owed: uid and payload of each event by its cursor."""


def judge(
    stored: Stored, emitters: Sequence[Resident], devices: Sequence[Wanderer], *, complete: bool
) -> Verdict:
    """Count what is missing, double, out of order or wrong.

    If the stream need not be ``complete``, what was acknowledged may be gone from it, and a device
    that did not get it has to have been told.
    """
    sent = {uid: each for emitter in emitters for uid, each in emitter.sent.items()}
    unknown = {uid for emitter in emitters for uid in emitter.unknown}
    if not complete:
        # A key is known as long as its event is there.
        unknown |= {uid for uid, each in sent.items() if each.again}
    order = _Order(sent, unknown)
    wrong = _judge_stream(stored, sent, order)
    by_id = {f"{stored.epoch}:{row.seq}": (row.user, row.uid) for row in stored.rows}
    there = set(by_id.values())
    for emitter in emitters:
        wrong["answers"] += len(emitter.wrong)
        for cursor, event in emitter.answered.items():
            if complete or cursor in by_id:
                wrong["acknowledged, not stored"] += by_id.get(cursor) != event
            elif by_id.setdefault(cursor, event) != event:
                wrong["one place for two events"] += 1
        for batch in emitter.batches if complete else ():
            wrong["half a batch"] += len(there.intersection(batch)) not in {0, len(set(batch))}
    streams = {
        user: {
            cursor: (uid, sent[uid].payload)
            for cursor, (whose, uid) in by_id.items()
            if whose in {None, user} and uid in sent
        }
        for user in {device.witness.user for device in devices}
    }
    told_lost = 0
    for device in devices:
        owed = streams[device.witness.user]
        missing = [seq_of(cursor) for cursor in owed.keys() - _got(device).keys()]
        lost = sum(any(a < seq <= b for a, b in _losses(device)) for seq in missing)
        told_lost += lost
        wrong["missing"] += len(missing) - lost
        if complete:
            wrong["gaps told"] += len(device.witness.gaps)
        wrong.update(_judge_device(owed, device, sent, order, complete=complete))
    expected = sum(len(streams[device.witness.user]) for device in devices)
    return Verdict(expected, told_lost, +wrong)


def _judge_stream(stored: Stored, sent: Mapping[str, Sent], order: "_Order") -> Counter[str]:
    wrong = Counter[str]()
    for user in {row.user for row in stored.rows}:
        uids = [row.uid for row in stored.rows if row.user == user]
        wrong["stored twice"] += len(uids) - len(set(uids))
    for row in stored.rows:
        what = sent.get(row.uid)
        if what is None or row.payload != what.payload or not what.durable:
            wrong["stored otherwise than sent"] += 1
        elif what.refused:
            wrong["refused, yet stored"] += 1
    wrong["stored out of order"] = order.faults([row.uid for row in stored.rows])
    return wrong


def _got(device: Wanderer) -> _Stream:
    return {
        cursor: (uid_of(payload), payload)
        for cursor, _, payload in device.witness.told
        if cursor is not None
    }


def _losses(device: Wanderer) -> list[tuple[int, int]]:
    """Return what a device was told: after which seq something is missing, and up to which."""
    return [
        (seq_of(after), seq_of(through))
        for after, through, reason in device.witness.gaps
        if reason == "expired" and through is not None
    ]


def _judge_device(
    owed: _Stream,
    device: Wanderer,
    sent: Mapping[str, Sent],
    order: "_Order",
    *,
    complete: bool,
) -> Counter[str]:
    witness = device.witness
    wrong = Counter({"contradicted": len(witness.faults)})
    wrong["gaps that are none"] = len(witness.gaps) - len(_losses(device))
    got = _got(device)
    if complete:
        wrong["delivered, not stored"] = len(got.keys() - owed.keys())
    wrong["delivered otherwise"] = sum(
        got[cursor] != owed[cursor] for cursor in got.keys() & owed.keys()
    )
    wrong["duplicates"] = len(witness.seqs) - len(set(witness.seqs))
    wrong["reordered"] = sum(
        later <= earlier for earlier, later in zip(witness.seqs, witness.seqs[1:], strict=False)
    )
    transient = [uid_of(payload) for cursor, _, payload in witness.told if cursor is None]
    for uid in transient:
        what = sent.get(uid)
        if what is None or witness.user not in what.users:
            wrong["another's, or never sent"] += 1
        elif what.refused:
            wrong["refused, yet delivered"] += 1
    # What was sent again after no answer may have gone out both times.
    told = [
        (uid_of(payload), cursor is not None)
        for cursor, _, payload in witness.told
        if cursor is not None or not sent[uid_of(payload)].again
    ]
    wrong["overtaken"] = order.overtaken(told)
    for begin, end in pairwise([*device.begins, len(witness.told)]):
        visit = [uid_of(payload) for cursor, _, payload in witness.told[begin:end] if not cursor]
        once = [uid for uid in visit if uid in sent and not sent[uid].again]
        wrong["transient twice"] += len(once) - len(set(once))
        wrong["transient out of order"] += order.faults(once)
    return wrong


class _Order:
    """The order in which each emitter emitted; what is ``unknown`` may have any place."""

    def __init__(self, sent: dict[str, Sent], unknown: set[str]) -> None:
        self._sent = sent
        self._unknown = unknown

    def faults(self, uids: Iterable[str]) -> int:
        """Count what an emitter sent before something that it follows here."""
        return self.overtaken((uid, True) for uid in uids)

    def overtaken(self, uids: Iterable[tuple[str, bool]]) -> int:
        """Count likewise, but for transient events (False) only among the durable ones.

        A device that goes to another node may be told there again what it was told where it was.
        """
        newest, durable = dict[str, int](), dict[str, int]()
        count = 0
        for uid, is_durable in uids:
            if uid in self._unknown or uid not in self._sent:
                continue
            emitter, number = uid.rpartition("-")[0], self._sent[uid].number
            count += number < (newest if is_durable else durable).get(emitter, -1)
            newest[emitter] = max(number, newest.get(emitter, -1))
            if is_durable:
                durable[emitter] = newest[emitter]
        return count
