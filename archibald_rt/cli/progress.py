"""What takes long says how far it is, on stderr, when that is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from archibald_rt.eventlog.access import Progress, unheard


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Show the progress that is told within the block; nothing is left of it at the end.

    Nothing is shown if stderr is no terminal, or with ``quiet``.
    """
    if quiet or not sys.stderr.isatty():
        yield unheard
        return
    from rich.console import Console  # noqa: PLC0415 - not for a server that starts
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None)

        def hear(what: str, done: int, total: int | None) -> None:
            display.update(task, description=what, completed=done, total=total)

        yield hear
