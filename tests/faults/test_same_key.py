"""The same keys from many sides at once, while commits fail and the server is killed."""

import asyncio
import errno
import random
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from faults.audit import stored_in
from faults.backends import BackEnd
from faults.failing import WRITE, FailingCalls
from faults.report import Report, times
from faults.service import Service
from support import eventually

USERS = [f"user-{number}" for number in range(4)]
KEYS = times(60)
SENDERS = 12
KILLS = times(2)
PAUSE = 0.02
NEIGHBOURS = 40


def emission(user: str, key: int) -> dict[str, object]:
    payload = {"uid": f"{user}:{key}"}
    return {"userId": user, "type": "E", "durable": True, "key": f"k{key}", "payload": payload}


class Sender:
    """A back end that sends every key to every user, in an order and in batches of its own."""

    def __init__(self, url: str, number: int) -> None:
        self.ids: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.sent = 0
        self.unanswered = 0
        self._back_end = BackEnd(url)
        self._chance = random.Random(number)  # noqa: S311 - to be repeated, no secret

    async def run(self) -> None:
        items = [(user, key) for user in USERS for key in range(KEYS)]
        self._chance.shuffle(items)
        while items:
            size = self._chance.choice([1, 1, 3, 10])
            batch, items = items[:size], items[size:]
            # Some stand in it twice.
            batch += [item for item in batch if self._chance.random() < 0.2]
            await self._insist(batch)
        self._back_end.close()

    async def _insist(self, batch: list[tuple[str, int]]) -> None:
        body = msgspec.json.encode([emission(user, key) for user, key in batch])
        while True:
            self.sent += 1
            try:
                answer = await self._back_end.request("POST", "/internal/emit", body)
            except (OSError, EOFError):
                self.unanswered += 1
            else:
                if answer.status == 200:
                    break
                assert answer.status in {503, 504}, answer
                self.unanswered += 1
            await asyncio.sleep(PAUSE)
        for item, result in zip(batch, answer.body["results"], strict=True):
            self.ids[item].add(result["id"])


@pytest.mark.fault("the same key from many sides while commits fail and the server is killed")
@pytest.mark.needs("fiu-run", "fiu-ctrl")
@pytest.mark.gen_test(timeout=240 + 30 * KILLS)
async def test_a_key_is_one_event_however_often_it_is_sent(tmp_path: Path, report: Report) -> None:
    failing = FailingCalls(tmp_path)
    async with Service(tmp_path) as service:
        service.prefix = failing.prefix
        await service.start()
        senders = [Sender(service.internal_url, number) for number in range(SENDERS)]

        async def answered(enough: int) -> None:
            await eventually(lambda: sum(len(each.ids) for each in senders) >= enough, within=60)

        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(sender.run())
            step = len(USERS) * KEYS * SENDERS // (KILLS + 1)
            for number in range(1, KILLS + 1):
                await failing.begin(service.pid, WRITE, errno.ENOSPC, share=0.1)
                await answered(number * step)
                await service.kill()
                await service.start()
        await service.stop()
    rows = stored_in(service.log).rows
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    for sender in senders:
        for item, those in sender.ids.items():
            ids[item] |= those
    assert len(ids) == len(USERS) * KEYS
    several = sum(len(those) - 1 for those in ids.values())
    doubled = len(rows) - len({row.uid for row in rows})
    missing = len({f"{user}:{key}" for user, key in ids} - {row.uid for row in rows})
    unanswered = sum(sender.unanswered for sender in senders)
    assert unanswered > 0
    report.note(
        "the same key from many sides while commits fail and the server is killed",
        how=f"{SENDERS} back ends send the same keys, alone and in batches; pwrite fails; kill -9",
        tried=f"{len(ids)} keys, {KILLS} kills",
        checked="one event for each key, and every answer names it",
        lost=several + doubled + missing,
        figures=f"{sum(s.sent for s in senders)} requests, {unanswered} without a 200",
    )


@pytest.mark.fault("a key used for something else, among good neighbours")
@pytest.mark.gen_test
async def test_a_batch_in_conflict_takes_no_neighbour_with_it(
    tmp_path: Path, report: Report
) -> None:
    rounds, wrong = times(5), 0
    expected: set[str] = set()
    async with Service(tmp_path) as service:
        await service.start()
        async with BackEnd(service.internal_url) as first:
            await first.emit(emission(USERS[0], 0))
        expected.add(f"{USERS[0]}:0")
        back_ends = [BackEnd(service.internal_url) for _ in range(NEIGHBOURS)]
        for turn in range(rounds):
            batches = []
            for number in range(NEIGHBOURS):
                # Keys of their own, and in every second batch one that means something else.
                place = 1 + (turn * NEIGHBOURS + number) * 3
                batch = [emission(USERS[number % len(USERS)], place + n) for n in range(3)]
                if number % 2:
                    other = {**emission(USERS[0], 0), "payload": {"uid": "other"}}
                    batch.insert(number % 4, other)
                else:
                    expected |= {f"{item['userId']}:{place + n}" for n, item in enumerate(batch)}
                batches.append(msgspec.json.encode(batch))
            answers = await asyncio.gather(
                *(
                    back_end.request("POST", "/internal/emit", batch)
                    for back_end, batch in zip(back_ends, batches, strict=True)
                )
            )
            for number, answer in enumerate(answers):
                wrong += answer.status != (409 if number % 2 else 200)
                if answer.status == 409:
                    wrong += answer.body["indexes"] != [number % 4]
        for back_end in back_ends:
            back_end.close()
        await service.stop()
    stored = [row.uid for row in stored_in(service.log).rows]
    report.note(
        "a key used for something else, among good neighbours",
        how=f"{NEIGHBOURS} batches at once, every second one with a key of another content",
        tried=f"{rounds * NEIGHBOURS} batches",
        checked="409 with the index for those, nothing of them stored; the others whole",
        lost=wrong + len(set(stored) ^ expected) + len(stored) - len(set(stored)),
        figures=f"{len(stored)} events stored",
    )
