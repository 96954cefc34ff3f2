"""More than the server takes: emissions beyond the queue, devices beyond the connections."""

import asyncio
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from archibald_rt.errors import CloseCode
from faults.backends import Account, BackEnd, stored_in
from faults.connections import Connection, connect
from faults.crowd import crowd
from faults.devices import Place
from faults.report import Report, times
from faults.served import MIB, served
from support import PATIENCE, eventually, token

MAX_QUEUE = 256 * 1024
BACK_ENDS = 40
REFUSALS = times(500)
PAD = "x" * 20_000
BATCH = 4


@pytest.mark.fault("order queue full")
@pytest.mark.gen_test(timeout=240 + REFUSALS // 10)
async def test_a_flood_of_emissions_is_refused_beyond_the_bound_and_the_rest_is_delivered(
    tmp_path: Path, report: Report
) -> None:
    statuses: Counter[int] = Counter()
    async with (
        served(tmp_path, {"internal.max_queue": f"{MAX_QUEUE // 1024}KiB"}) as (service, process),
        crowd(service, lambda: service.public_url, users=BATCH) as those,
    ):
        await those.emit()
        await eventually(those.up_to_date)
        resident = process.forget_peak()

        async def flood() -> None:
            async with BackEnd(service.internal_url) as back_end:
                body = [{"userId": user, "type": "E", "payload": PAD} for user in those.users]
                while statuses[503] < REFUSALS:
                    answer = await back_end.request(
                        "POST", "/internal/emit", msgspec.json.encode(body)
                    )
                    statuses[answer.status] += 1
                    if answer.status == 200:
                        those.account.note(those.users, answer.body["results"])
                    else:
                        assert answer.status == 503, answer
                        assert int(answer.headers["retry-after"]) >= 1
                        assert "queued" in answer.body["detail"]

        async with asyncio.TaskGroup() as group:
            for _ in range(BACK_ENDS):
                group.create_task(flood())
        grown = process.peak() - resident
        # It takes emissions again as if nothing had been.
        await those.emit()
        await eventually(those.up_to_date)
    refused_but_stored = sum(
        len(set(seqs).difference(those.account.answered[user]))
        for user, seqs in stored_in(service.log).items()
    )
    assert statuses[200]
    assert grown < 48 * MIB
    report.note(
        "order queue full",
        how=f"{BACK_ENDS} back ends emit batches of {BATCH} × 20 KB without a pause "
        f"(`max_queue` {MAX_QUEUE // 1024} KiB)",
        tried=f"{statuses.total()} requests: {statuses[200]} × 200, {statuses[503]} × 503",
        checked="503 has Retry-After and stores nothing; what was answered 200 is delivered "
        "once, in order; memory is bounded",
        lost=those.account.lost(service.log, those.places) + refused_but_stored,
        figures=f"memory grew by {grown / MIB:.0f} MiB",
    )


@pytest.mark.fault("server full")
@pytest.mark.gen_test
async def test_a_device_too_many_is_told_so_and_is_taken_when_another_has_left(
    tmp_path: Path, report: Report
) -> None:
    limit, rounds = 10, times(20)
    account, user = Account(), "user"
    refused = 0
    async with (
        served(tmp_path, {"server.max_connections": str(limit)}) as (service, _),
        BackEnd(service.internal_url) as back_end,
    ):

        async def come() -> tuple[Connection, Place]:
            place = Place(user)
            query = {"token": token(user), "lastEventId": "earliest"}
            return await connect(service.public_url, query, place.take), place

        async def emit() -> None:
            account.note([user], await back_end.emit({"userId": user, "type": "E"}))

        async def room() -> bool:
            stats = await back_end.get("/internal/stats")
            return bool(stats["connections"]["total"] < limit)

        there = [await come() for _ in range(limit)]
        await eventually(lambda: all(place.live for _, place in there))
        for _ in range(rounds):
            await emit()
            one_more, place = await come()
            async with asyncio.timeout(PATIENCE.total_seconds()):
                assert await one_more.closed == CloseCode.TRY_AGAIN_LATER
            assert not place.welcomes
            refused += 1
            leaving, _ = there.pop(0)
            leaving.drop()
            await leaving.closed
            await eventually(room)
            there.append(await come())
            await eventually(lambda: there[-1][1].live)
        await emit()
        await eventually(lambda: all(len(place.seqs) == rounds + 1 for _, place in there))
        for connection, _ in there:
            connection.drop()
            await connection.closed
    report.note(
        "server full",
        how=f"one device more than `max_connections` ({limit}) connects, then one leaves",
        tried=f"{rounds} times",
        checked="it is closed with 1013, and taken when one has left; those that are connected "
        "get everything",
        lost=account.lost(service.log, [place for _, place in there]),
        figures=f"{refused} refused",
    )
