"""The file, its folder or its file system may not be written."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.audit import audit, lost
from faults.load import load
from faults.report import Report
from faults.service import Service
from system import ext4, make_ext4, program, run_as_root, tmpfs

NOBODY = 65534
SIZE = 48 * 1024 * 1024


@pytest.mark.fault("the file system turns read-only")
@pytest.mark.needs("loop")
@pytest.mark.gen_test
async def test_a_server_whose_file_system_turns_read_only_ends(
    tmp_path: Path, report: Report
) -> None:
    image = tmp_path / "disk"
    make_ext4(image, size=SIZE)
    with ExitStack() as disk:
        folder = disk.enter_context(ext4(image, tmp_path / "mount"))
        async with Service(tmp_path, folder / "events.db") as service:
            await service.start()
            async with load(service) as work:
                await work.more(200)
                # What ext4 does by itself when it meets an error.
                run_as_root("mount", "-o", "remount,abort", str(folder))
                reason = await service.breakdown()
                line = await service.refusal()
                assert "Read-only file system" in line
                disk.pop_all().close()
                # A copy: as long as anybody else sees the old mount, in a namespace of his own,
                # the kernel would give it back as it is.
                again = Path(shutil.copyfile(image, tmp_path / "mended"))
                disk.enter_context(ext4(again, folder))
                await service.start()
                await work.finish()
            await service.stop()
        wrong = audit(service.log, work)
    report.note(
        "the file system turns read-only",
        how="ext4 told to abort (mount -o remount,abort), as it does when it meets an error",
        tried="1 time",
        checked=(
            "504 or 503, the critical line, exit code 1; a start says so in one line; "
            "mounted again, all is there"
        ),
        lost=lost(wrong),
        figures=f"{work.summary()}; “{reason}”, “{line}”",
    )


@pytest.mark.fault("a file or folder that may not be written, at the start")
@pytest.mark.needs("tmpfs", "setpriv")
@pytest.mark.gen_test
async def test_a_server_that_may_not_write_its_log_says_so_and_changes_nothing(
    tmp_path: Path, report: Report
) -> None:
    lines = {}
    # Others may look into this folder, which they may not into a test's own.
    shared = _folder_for_all()
    try:
        async with Service(shared, shared / "log" / "events.db") as service:
            await service.start()
            async with load(service) as work:
                await work.more(50)
                await work.finish()
            await service.stop()
            wrong = audit(service.log, work)
            before = service.log.read_bytes()
            if os.geteuid() == 0:
                setpriv = program("setpriv")
                assert setpriv is not None
                ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
                service.prefix = (setpriv, *ids)
            for what, folder, file in (("folder", 0o555, 0o666), ("file", 0o777, 0o444)):
                service.log.with_name("events.db.lock").unlink(missing_ok=True)
                service.log.chmod(file)
                service.log.parent.chmod(folder)
                lines[what] = await service.refusal()
            service.log.parent.chmod(0o755)
            service.prefix = ()
            with tmpfs(tmp_path / "fixed", size=SIZE) as mount:
                service.log = Path(shutil.copy(service.log, mount))
                run_as_root("mount", "-o", "remount,ro", str(mount))
                lines["file system"] = await service.refusal()
                changed = service.log.read_bytes() != before
    finally:
        shutil.rmtree(shared)
    report.note(
        "a file or folder that may not be written, at the start",
        how="mode 0555 and 0444 for another user than root, and a tmpfs mounted read-only",
        tried=f"{len(lines)} starts",
        checked="exit code 1 and one line; the file is as it was",
        lost=lost(wrong) + changed,
        figures="; ".join(f"{what}: “{line}”" for what, line in lines.items()),
    )


def _folder_for_all() -> Path:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    return folder
