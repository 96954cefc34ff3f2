"""The log is in JetStream, and the server, NATS or the way between them fails under load."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faults.audit import audit, lost, stored_in_stream
from faults.backends import BackEnd
from faults.load import Load, Watcher, load
from faults.report import Report, times
from faults.service import Service
from faults.test_disk_full import fill
from natsservers import NatsServer, cable, nats_server
from support import eventually
from system import tmpfs

STREAM = "RT"
KILLS = times(2)
OUTAGES = times(1)
FILLINGS = times(1)
SMALL = 0, 50, 500
"""By how many bytes payloads are lengthened where devices have to stay live."""
SIZE = 64 * 1024 * 1024
CHECKED = (
    "all that was answered is in the stream, nothing refused is; each device got its stream once "
    "and in order, and was told no loss; batches whole"
)


@asynccontextmanager
async def served(folder: Path, url: str) -> AsyncIterator[Service]:
    """Run a server with its log in JetStream for the length of a block."""
    async with Service(folder) as service:
        service.settings |= {"log.engine": "nats", "nats.servers": url, "nats.stream": STREAM}
        # Who falls behind while there is no log to read is sent away.
        service.settings["delivery.max_outbox"] = "1MiB"
        await service.start()
        yield service


async def out(service: Service, work: Load) -> None:
    """Wait until it is known that the log can't be reached; what is transient goes on."""
    await work.refused(5)
    assert (await service.ready()).status == 503
    await work.more_transient(10)


async def back(service: Service, work: Load) -> None:
    """Wait until it is reached again, though nobody emits anything."""
    await work.hold()
    await service.until_ready()
    work.go.set()
    await work.more(50)


def found(nats: NatsServer, work: Load) -> int:
    """Count what is missing or wrong."""
    return lost(audit(stored_in_stream(nats.url, STREAM), work))


@pytest.mark.fault("kill -9, the log in JetStream")
@pytest.mark.gen_test(timeout=120 + 60 * KILLS)
async def test_what_was_answered_survives_kills_of_the_server_and_reaches_every_device(
    tmp_path: Path, report: Report
) -> None:
    with nats_server(tmp_path / "nats") as nats:
        async with served(tmp_path, nats.url) as service:
            async with load(service) as work:
                for _ in range(KILLS):
                    await work.more(work.chance.randrange(50, 200))
                    await service.kill()
                    before = [emitter.keyed for emitter in work.emitters]
                    await service.start()
                    async with BackEnd(service.internal_url) as back_end:
                        for emission, first in filter(None, before):
                            (answer,) = await back_end.emit(emission)
                            assert (answer["id"], answer["duplicate"]) == (first, True)
                await work.finish()
            await service.stop()
        report.note(
            "kill -9, the log in JetStream",
            how="SIGKILL of the server at random moments, a new process at once on the same stream",
            tried=f"{KILLS} kills",
            checked=f"{CHECKED}; keys used again name the first event",
            lost=found(nats, work),
            figures=work.summary(),
        )


@pytest.mark.fault("NATS is killed")
@pytest.mark.gen_test(timeout=120 + 60 * KILLS)
async def test_kills_of_nats_refuse_what_is_durable_until_it_is_back_and_lose_nothing(
    tmp_path: Path, report: Report
) -> None:
    with nats_server(tmp_path / "nats") as nats:
        async with served(tmp_path, nats.url) as service:
            async with load(service, pads=SMALL, unrest=False) as work:
                for _ in range(KILLS):
                    await work.more(work.chance.randrange(50, 200))
                    nats.kill()
                    await out(service, work)
                    nats.start()
                    await back(service, work)
                await work.finish()
            await service.stop()
        report.note(
            "NATS is killed",
            how="SIGKILL of the only NATS server at random moments, started again on its files",
            tried=f"{KILLS} kills",
            checked=CHECKED,
            lost=found(nats, work),
            figures=work.summary(),
        )


@pytest.mark.fault("NATS hangs")
@pytest.mark.gen_test(timeout=120 + 60 * OUTAGES)
async def test_what_was_on_its_way_when_nats_hung_is_stored_once_or_not_at_all(
    tmp_path: Path, report: Report
) -> None:
    with nats_server(tmp_path / "nats") as nats:
        async with served(tmp_path, nats.url) as service:
            async with load(service) as work:
                for _ in range(OUTAGES):
                    await work.more(100)
                    unknown = work.statuses[504]
                    with nats.halted():
                        await eventually(lambda: work.statuses[504] > unknown)  # noqa: B023 - it is over before the next round
                    await back(service, work)
                await work.finish()
            await service.stop()
        report.note(
            "NATS hangs",
            how="SIGSTOP of the NATS server until emissions are answered 504, then SIGCONT",
            tried=f"{OUTAGES} time{'s' * (OUTAGES > 1)}",
            checked=CHECKED,
            lost=found(nats, work),
            figures=work.summary(),
        )


@pytest.mark.fault("cut off from NATS")
@pytest.mark.gen_test(timeout=120 + 60 * KILLS)
async def test_a_server_that_was_cut_off_from_nats_goes_on_where_it_was(
    tmp_path: Path, report: Report
) -> None:
    with nats_server(tmp_path / "nats") as nats:
        async with cable(nats) as way, served(tmp_path, way.url) as service:
            async with load(service, pads=SMALL, unrest=False) as work:
                for _ in range(KILLS):
                    await work.more(work.chance.randrange(50, 200))
                    way.cut()
                    await out(service, work)
                    way.mend()
                    await back(service, work)
                await work.finish()
            await service.stop()
        report.note(
            "cut off from NATS",
            how="all connections to NATS reset and refused for a while, by a relay",
            tried=f"{KILLS} times",
            checked=CHECKED,
            lost=found(nats, work),
            figures=work.summary(),
        )


@pytest.mark.fault("NATS's disk is full")
@pytest.mark.needs("tmpfs")
@pytest.mark.gen_test(timeout=120 + 60 * FILLINGS)
async def test_a_full_disk_of_nats_refuses_what_is_durable_until_it_has_room_and_is_restarted(
    tmp_path: Path, report: Report
) -> None:
    with tmpfs(tmp_path / "small", size=SIZE) as folder, nats_server(folder / "nats") as nats:
        async with served(tmp_path, nats.url) as service:
            async with load(service, pads=SMALL, unrest=False) as work:
                for _ in range(FILLINGS):
                    await work.more(100)
                    await asyncio.to_thread(fill, folder / "filler")
                    await out(service, work)
                    await work.hold()
                    (folder / "filler").unlink()
                    nats.kill()
                    nats.start()
                    await service.until_ready()
                    # Nothing is emitted: its replay comes to an end, however slow it is.
                    await work.join(Watcher(lambda: service.public_url, work.users[0]))
                    work.go.set()
                    await work.more(50)
                await work.finish()
            await service.stop()
        report.note(
            "NATS's disk is full",
            how="a tmpfs of 64 MiB with NATS's files filled to the last byte; with room again NATS "
            "is restarted, since it gives JetStream up",
            tried=f"{FILLINGS} time{'s' * (FILLINGS > 1)}",
            checked=CHECKED,
            lost=found(nats, work),
            figures=work.summary(),
        )
