"""Logs of several sizes: made once, kept, and copied for each server that is to have one."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page_cost import fill

SMALLEST = 1000


@dataclass(frozen=True)
class Logs:
    """The kept logs in a folder."""

    folder: Path

    def sizes(self, largest: int) -> list[int]:
        """Return the sizes up to the largest: from a thousand rows, each ten times the last."""
        sizes = [SMALLEST]
        while sizes[-1] * 10 <= largest:
            sizes.append(sizes[-1] * 10)
        return sizes

    def copy(self, rows: int, destination: Path) -> None:
        """Put a log of so many rows there, which is made first if there is none yet."""
        kept = self.folder / f"{rows}.db"
        if not kept.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(".unfinished")
            unfinished.unlink(missing_ok=True)
            fill(unfinished, rows)
            unfinished.rename(kept)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept, destination)
