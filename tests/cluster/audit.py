"""Comparing what was sent, answered, refused and received with what the stream holds."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from cluster.devices import Wanderer
from cluster.emitters import Resident
from faults.audit import Stored
from faults.emitters import Sent, uid_of


class Verdict(NamedTuple):
    """What was counted; ``wrong`` is empty where all is well."""

    expected: int
    """How many durable events devices were to get, all of them together."""
    wrong: Counter[str]


def judge(stored: Stored, emitters: Sequence[Resident], devices: Sequence[Wanderer]) -> Verdict:
    """Count what is missing, double, out of order or wrong."""
    sent = {uid: each for emitter in emitters for uid, each in emitter.sent.items()}
    unknown = {uid for emitter in emitters for uid in emitter.unknown}
    order = _Order(sent, unknown)
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
    by_id = {f"{stored.epoch}:{row.seq}": (row.user, row.uid) for row in stored.rows}
    there = set(by_id.values())
    for emitter in emitters:
        wrong["answers"] += len(emitter.wrong)
        for cursor, event in emitter.answered.items():
            wrong["acknowledged, not stored"] += by_id.get(cursor) != event
        for batch in emitter.batches:
            wrong["half a batch"] += len(there.intersection(batch)) not in {0, len(set(batch))}
    streams = {
        user: {
            f"{stored.epoch}:{row.seq}": (row.timestamp, row.payload) for row in stored.stream(user)
        }
        for user in {device.witness.user for device in devices}
    }
    for device in devices:
        wrong.update(_judge_device(streams[device.witness.user], device, sent, order))
    return Verdict(sum(len(streams[each.witness.user]) for each in devices), +wrong)


def _judge_device(
    owed: Mapping[str, tuple[str, bytes]],
    device: Wanderer,
    sent: Mapping[str, Sent],
    order: "_Order",
) -> Counter[str]:
    witness = device.witness
    wrong = Counter({"contradicted": len(witness.faults), "gaps told": len(witness.gaps)})
    got = {cursor: event for cursor, *event in witness.told if cursor is not None}
    wrong["missing"] = len(owed.keys() - got.keys())
    wrong["delivered, not stored"] = len(got.keys() - owed.keys())
    wrong["delivered otherwise"] = sum(
        tuple(got[cursor]) != owed[cursor] for cursor in got.keys() & owed.keys()
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
