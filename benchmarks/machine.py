"""What the figures were measured on."""

import os
import platform
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from tempfile import NamedTemporaryFile


def describe() -> dict[str, str | int]:
    """Return what of the machine and its programs figures depend on."""
    found: dict[str, str | int] = {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            found["cpu"] = line.partition(":")[2].strip()
            break
    if node := shutil.which("node"):
        found["node"] = subprocess.run(
            [node, "--version"], check=True, capture_output=True, text=True
        ).stdout.strip()
    return found


def fsync_times(folder: Path, count: int = 50, size: int = 4096) -> list[float]:
    """Append pages to a file in `folder` and sync each; returns the times in seconds.

    So a commit's fsync: of a file that grows, by `fdatasync` as SQLite has it on Linux.
    """
    times = []
    with NamedTemporaryFile(dir=folder) as file:
        for _ in range(count):
            os.write(file.fileno(), bytes(size))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return times


def fsync_time(folder: Path) -> float:
    """Return the median time of one sync in a folder, in seconds."""
    return statistics.median(fsync_times(folder))
