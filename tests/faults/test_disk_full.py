"""The disk is full: durable events are refused, all else goes on, and it mends by itself."""

from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import Watcher, load
from faults.report import Report, times
from faults.service import Service
from system import tmpfs

FILLINGS = times(3)
SIZE = 16 * 1024 * 1024


def fill(path: Path) -> None:
    """Write a file until there is no room for a byte more."""
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert "No space left" in str(error)  # noqa: PT017 - it is how this ends


@pytest.mark.fault("disk full")
@pytest.mark.needs("tmpfs")
@pytest.mark.gen_test(timeout=240 + 30 * FILLINGS)
async def test_a_full_disk_refuses_what_is_durable_until_there_is_room_again(
    tmp_path: Path, report: Report
) -> None:
    slowest = 0.0
    with tmpfs(tmp_path / "small", size=SIZE) as folder:
        async with Service(tmp_path, folder / "events.db") as service:
            await service.start()
            async with load(service, pads=(0, 50, 2000)) as work:
                for _ in range(FILLINGS):
                    await work.more(100)
                    fill(folder / "filler")
                    await work.refused(30)
                    answer = await service.ready()
                    assert answer.status == 503
                    assert "SQLITE_FULL" in answer.body["detail"]
                    # Devices are told what is transient, and replays go on.
                    await work.more_transient(20)
                    late = Watcher(lambda: service.public_url, work.users[0])
                    await work.join(late)
                    assert late.place.replays[0] > 0
                    # Nobody emits anything now: the server finds out by itself.
                    await work.hold()
                    (folder / "filler").unlink()
                    slowest = max(slowest, await service.until_ready())
                    work.go.set()
                await work.more(100)
                await work.finish()
            await service.stop()
        wrong = audit(service.log, work)
    assert len(service.entries("commits fail")) >= FILLINGS
    report.note(
        "disk full",
        how="a tmpfs of 16 MiB filled to the last byte, and freed while nobody emits",
        tried=f"{FILLINGS} times",
        checked=(
            "503 with Retry-After, /readyz 503 with the reason; nothing refused stored or "
            "delivered; transient events and replays go on; ready again without a request"
        ),
        lost=lost(wrong),
        figures=f"{work.summary()}; ready within {slowest:.1f} s of room",
    )


@pytest.mark.fault("disk full at the start")
@pytest.mark.needs("tmpfs")
@pytest.mark.gen_test
async def test_a_server_on_a_full_disk_says_so_in_one_line(tmp_path: Path, report: Report) -> None:
    lines = []
    with tmpfs(tmp_path / "small", size=SIZE) as folder:
        async with Service(tmp_path, folder / "events.db") as service:
            fill(folder / "filler")
            lines.append(await service.refusal())
            (folder / "filler").unlink()
            await service.start()
            async with load(service, pads=(0, 50, 2000)) as work:
                line = None
                while line is None:
                    await work.more(300)
                    await service.kill()
                    fill(folder / "filler")
                    # A kill right after a checkpoint leaves a log that needs no room to start.
                    line = await service.refusal_if_any()
                    (folder / "filler").unlink()
                lines.append(line)
                await service.start()
                await work.finish()
            await service.stop()
        wrong = audit(service.log, work)
    assert all("disk" in line or "space" in line for line in lines), lines
    report.note(
        "disk full at the start",
        how="a full tmpfs, first without a log, then with one that was left by a kill -9",
        tried="2 starts",
        checked="exit code 1 and one line; with room it starts and has all",
        lost=lost(wrong),
        figures=" / ".join(f"“{line}”" for line in lines),
    )


@pytest.mark.fault("nowhere to write log lines")
@pytest.mark.gen_test
async def test_a_server_that_can_not_write_its_log_lines_goes_on(
    tmp_path: Path, report: Report
) -> None:
    async with Service(tmp_path) as service:
        await service.start_mute(Path("/dev/full"))
        async with load(service) as work:
            await work.more(200)
            await work.finish()
        await service.stop()
    report.note(
        "nowhere to write log lines",
        how="stderr is /dev/full",
        tried="1 run",
        checked="it goes on as ever",
        lost=lost(audit(service.log, work)),
        figures=work.summary(),
    )
