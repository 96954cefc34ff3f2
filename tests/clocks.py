"""A loop whose time passes only while it has nothing to do: no halt fails a test of spans."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _Jump(selectors.DefaultSelector):
    """Waits for nothing: says for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.now += max(timeout, 0.0)
        return ready


class ClockLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which begins at 0; for code with timers and no sockets."""

    def __init__(self) -> None:
        self._clock = _Jump()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def pass_time(self, seconds: float) -> None:
        """Have something take this long, as a busy machine does."""
        self._clock.now += seconds


def run_by_the_clock(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in a `ClockLoop` of its own to its end."""
    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(main)


def clock() -> ClockLoop:
    """Return the loop of whoever is run by `run_by_the_clock`."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    return loop
