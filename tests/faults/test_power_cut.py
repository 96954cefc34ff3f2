"""The power goes: what is left is what the file system had given to its device.

The log is on an ext4 file system in a file. A cut stops the server where it stands, copies
that file, and goes on with the copy. What the server wrote and did not sync is in the memory of
the file system and not in the file.
"""

import asyncio
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import Load, load
from faults.report import Report, times
from faults.service import Service
from system import ext4, make_ext4, run_as_root

CUTS = times(6)
SIZE = 48 * 1024 * 1024

# A server that syncs nothing at a commit.
CARELESS = """
import sys
from archibald_rt.cli import main
from archibald_rt.eventlog import schema

configure = schema._configure

def careless(connection):
    configure(connection)
    connection.execute("PRAGMA synchronous = OFF")

schema._configure = careless
sys.argv[1:] = ["serve"]
main()
"""


async def cut(folder: Path, *, cuts: int, program: str = "") -> tuple[Counter[str], Load]:
    """Cut the power of a server under load again and again; return what was wrong at the end.

    At every second cut the kernel has written back by itself all that was written by then,
    half a transaction included: it may do so at any moment.
    """
    image = folder / "disk-0"
    make_ext4(image, size=SIZE)
    with ExitStack() as disk:
        mount = disk.enter_context(ext4(image, folder / "mount-0"))
        async with Service(folder, mount / "events.db") as service:
            if program:
                service.program = ("-c", program)
            await service.start()
            async with load(service) as work:
                for number in range(1, cuts + 1):
                    await work.more(work.chance.randrange(50, 250))
                    await service.freeze()
                    if number % 2 == 0:
                        await asyncio.to_thread(run_as_root, "sync", "-f", str(mount))
                    copy = folder / f"disk-{number}"
                    await asyncio.to_thread(shutil.copyfile, image, copy)
                    await service.kill()
                    disk.pop_all().close()
                    image.unlink()
                    image = copy
                    mount = disk.enter_context(ext4(image, folder / f"mount-{number}"))
                    service.log = mount / "events.db"
                    await service.start()
                await work.finish()
            await service.stop()
            return audit(service.log, work), work


@pytest.mark.fault("power cut")
@pytest.mark.needs("loop")
@pytest.mark.gen_test(timeout=240 + 20 * CUTS)
async def test_what_was_answered_survives_power_cuts(tmp_path: Path, report: Report) -> None:
    wrong, work = await cut(tmp_path, cuts=CUTS)
    report.note(
        "power cut",
        how=(
            "the log on ext4 in a file; the server stopped (SIGSTOP), the file copied as it was, "
            "a new process on the copy"
        ),
        tried=f"{CUTS} cuts, before every second one all written pages flushed by the kernel",
        checked="as after kill -9; nothing that a device got is missing",
        lost=lost(wrong),
        figures=work.summary(),
    )


@pytest.mark.needs("loop")
@pytest.mark.gen_test
async def test_such_a_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    wrong, _ = await cut(tmp_path, cuts=1, program=CARELESS)
    assert wrong["answered, not stored"] > 0
