"""A page of the file goes bad while the server runs, and a reader or a commit meets it."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from faults.audit import audit, lost
from faults.backends import BackEnd
from faults.connections import connect
from faults.devices import read_message
from faults.load import load
from faults.report import Report
from faults.service import Service
from support import token

PAGE = 4096
VICTIM, NEIGHBOUR = "a-victim", "b-neighbour"
EVENTS = 300


def payload(number: int, user: str = VICTIM) -> str:
    return f"{user} {number:05} " + "." * 200


async def fill(service: Service) -> None:
    """Store so many events of one user that whole pages hold nothing else."""
    async with BackEnd(service.internal_url) as back_end:
        for user in (VICTIM, NEIGHBOUR):
            of_user = {"userId": user, "type": "E", "durable": True}
            await back_end.emit([{**of_user, "payload": payload(n, user)} for n in range(EVENTS)])


def damage(log: Path, number: int, byte: bytes) -> None:
    """Overwrite the page in which an event of the victim begins, stale copies included."""
    with log.open("r+b") as file:
        content = file.read()
        at = -1
        while (at := content.find(payload(number).encode(), at + 1)) >= 0:
            file.seek(at // PAGE * PAGE)
            file.write(byte * PAGE)


async def replay(service: Service) -> tuple[int, list[str]]:
    """Let the victim's device ask for all; return its close code and what it was told."""
    told: list[bytes] = []
    query = {"token": token(VICTIM), "lastEventId": "earliest"}
    connection = await connect(service.public_url, query, told.append)
    code = await asyncio.wait_for(connection.closed, 30)
    messages = [read_message(text) for text in told]
    return code, [bytes(message.payload).decode() for message in messages if message.id is not None]


@pytest.mark.fault("a page goes bad while serving")
@pytest.mark.gen_test
async def test_a_bad_page_ends_the_server_and_nobody_is_told_what_was_not_emitted(
    tmp_path: Path, report: Report
) -> None:
    reasons, wrong_bytes = [], 0
    async with Service(tmp_path) as service:
        await service.start()
        await fill(service)
        await service.stop()
        await service.start()
        async with load(service) as work:
            # Met by a device's replay ...
            await work.more(100)
            damage(service.log, EVENTS // 2, b"\x00")
            code, told = await replay(service)
            assert code == 1013
            assert 0 < len(told) < EVENTS
            wrong_bytes += told != [f'"{payload(number)}"' for number in range(len(told))]
            reasons.append(await service.breakdown())
            # ... and by a commit.
            await service.start()
            await work.more(100)
            damage(service.log, EVENTS - 1, b"\xff")
            async with BackEnd(service.internal_url) as back_end:
                emission = {"userId": VICTIM, "type": "E"}
                answer = await back_end.request(
                    "POST", "/internal/emit", msgspec.json.encode(emission)
                )
            assert answer.status == 504
            assert "outcome-unknown" in answer.body["detail"]
            reasons.append(await service.breakdown())
            # Until somebody meets it again, the others are served.
            await service.start()
            await work.finish()
        await service.stop()
    assert all("SQLITE_CORRUPT" in reason for reason in reasons)
    report.note(
        "a page goes bad while serving",
        how="a page of one user's events overwritten in the file, by zeros and by ones",
        tried="2 times: met by a replay, met by a commit",
        checked=(
            "the device is ended with 1013, the emission answered 504, the critical line, exit "
            "code 1; what the device got before is as emitted; the other users lose nothing"
        ),
        lost=lost(audit(service.log, work, work.users)) + wrong_bytes,
        figures=f"{work.summary()}; “{reasons[0]}”",
    )
