"""The process is killed as soon as it has answered that a token is refused from now on."""

import time
from pathlib import Path

import msgspec
import pytest

from archibald_rt.timestamps import from_epoch
from faults.audit import audit, lost
from faults.backends import BackEnd
from faults.load import load
from faults.report import Report, times
from faults.service import Service
from support import token

KILLS = times(4)


async def statuses(service: Service, tokens: list[str]) -> list[int]:
    """Return what the health endpoint answers to each token: 401 if it is refused, else 403."""
    async with BackEnd(service.public_url) as client:
        asked = [f"/api/websocket/health?token={each}" for each in tokens]
        return [(await client.request("GET", each)).status for each in asked]


@pytest.mark.fault("kill -9 right after a revocation")
@pytest.mark.gen_test(timeout=240 + 20 * KILLS)
async def test_what_was_answered_as_revoked_is_refused_after_every_kill(
    tmp_path: Path, report: Report
) -> None:
    now = int(time.time())
    before, expires = from_epoch(now), from_epoch(now + 3600)
    refused: list[str] = []
    taken: list[str] = []
    wrong = 0
    async with Service(tmp_path) as service:
        await service.start()
        async with load(service) as work:
            for number in range(KILLS):
                old, new = (token(f"left-{number}", iat=now + each) for each in (-1, 0))
                stolen, kept = (token("stays", jti=f"{each}-{number}") for each in "ab")
                requests = [
                    (f"/internal/users/left-{number}/disconnect", {"revokeBefore": before}, old),
                    ("/internal/tokens/revoke", {"jti": f"a-{number}", "expires": expires}, stolen),
                ]
                for path, body, gone in requests:
                    await work.more(20)
                    assert await statuses(service, [gone]) == [403]
                    async with BackEnd(service.internal_url) as back_end:
                        answer = await back_end.request("POST", path, msgspec.json.encode(body))
                        await service.kill()
                    assert answer.status == 200
                    refused.append(gone)
                    await service.start()
                    wrong += (await statuses(service, refused)).count(403)
                taken += [new, kept]
                wrong += (await statuses(service, taken)).count(401)
            await work.finish()
        await service.stop()
    report.note(
        "kill -9 right after a revocation",
        how="SIGKILL as soon as a revocation is answered, a new process at once on the same file",
        tried=f"{2 * KILLS} kills",
        checked=(
            "every token that was revoked before any of the kills is refused, and no other is; "
            "events as after kill -9"
        ),
        lost=wrong + lost(audit(service.log, work)),
        figures=f"{len(refused)} tokens revoked; {work.summary()}",
    )
