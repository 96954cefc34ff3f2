"""A clock that can be set, for one process: libfaketime, by a file that it reads."""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Clock:
    """The clock of whatever runs with ``environment``; only the time of day, not intervals."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        library = subprocess.run(
            ["faketime", "-m", "-f", "+0s", "printenv", "LD_PRELOAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # As Debian builds it, its waits for a condition return at once, and Python's
            # threads spin in them.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        self.set("+0")

    def set(self, offset: str) -> None:
        """Set it so far from the true time (such as ``-3h``); it is noticed within a second."""
        new = self._file.with_name("clock.new")
        new.write_text(offset)
        new.replace(self._file)
