"""For how long what has come waits to be taken. No I/O."""

import time
from collections.abc import Callable


class Lateness:
    """Counts what there is to take, and what of it was taken; both only rise.

    ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._there = 0
        self._taken = 0
        # So much was there then: while not all of that is taken, the first of the rest has waited
        # at least since.
        self._mark = 0
        self._since = 0.0

    def there(self, count: int) -> None:
        """Take note how many there are, or are known to come, of all times."""
        if self._taken >= self._there:
            self._mark, self._since = count, self._clock()
        self._there = count

    def taken(self, count: int) -> None:
        """Take note how many were taken, of all times."""
        self._taken = count
        if count >= self._mark:
            self._mark, self._since = self._there, self._clock()

    @property
    def seconds(self) -> float:
        """For how long, at least, the first that was not taken waits; 0 where there is none.

        At most half as long as it really is while more comes all the time.
        """
        return self._clock() - self._since if self._taken < self._there else 0.0
