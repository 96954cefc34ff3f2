"""How often something may be done, counted by whose it is."""

from datetime import timedelta

from throttled import MemoryStore, RateLimiterType, Throttled, rate_limiter

KEYS = 50_000
"""How many keys are remembered for each limit, those used last; some 20 MB of short ones."""

MINUTE = 60
SECOND = 1


class RateLimit:
    """So many times in so many seconds for each key; a ``count`` of 0 is no limit.

    ``count`` may come at once, and then one more each ``seconds / count`` (GCRA): nobody waits
    for the end of a minute, and none begins with a rush. What is refused doesn't count. Of more
    than ``keys`` keys those that were not used for longest are forgotten, and may begin anew.
    Time goes by a steady clock.
    """

    def __init__(self, count: int, seconds: int, *, keys: int = KEYS) -> None:
        self._throttled: Throttled | None = None
        if count:
            self._throttled = Throttled(
                using=RateLimiterType.GCRA.value,
                quota=rate_limiter.per_duration(timedelta(seconds=seconds), count, burst=count),
                # Of its own: the library's default is one for all, for 1024 keys.
                store=MemoryStore(options={"MAX_SIZE": keys}),
            )

    def admits(self, key: str) -> bool:
        """Whether it may be done now for this key, which is not empty; counts it if so."""
        return self._throttled is None or not self._throttled.limit(key).limited
