"""A service with the bounds a server has by default, and what /proc says of its process."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from faults.service import Service

MIB = 1024 * 1024


class Process:
    """What a running process takes (Linux, proc(5))."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def memory(self) -> int:
        """Return how many bytes of memory are resident."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Return how many bytes were resident at most since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> int:
        """Begin to look for the peak anew; returns how many bytes are resident now."""
        (self._folder / "clear_refs").write_text("5")
        return self.memory()

    def descriptors(self) -> int:
        """Return how many file descriptors are open."""
        return len(list((self._folder / "fd").iterdir()))

    def _status(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} in the status of a process")


def faults_in(output: str) -> list[str]:
    """Return the errors among log lines, and what is no log line; a 503 is no fault."""
    found = []
    for text in output.splitlines():
        line = json.loads(text) if text[:1] == "{" else {"level": "critical"}
        refused = line.get("status") == HTTPStatus.SERVICE_UNAVAILABLE
        if line["level"] in {"error", "critical"} and not refused:
            found.append(text)
    return found


@asynccontextmanager
async def served(
    folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Service, Process]]:
    """Run a server for the length of a block; it has to log no error.

    It has the default outbox, unlike a `Service` by itself.
    """
    async with Service(folder) as service:
        service.settings |= {"delivery.max_outbox": "1MiB"} | dict(settings or {})
        await service.start()
        yield service, Process(service.pid)
    assert not faults_in(service.output())
