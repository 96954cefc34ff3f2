"""How late the loop is: what everybody waits who has something to do in it."""

import asyncio

from archibald_rt.measures import SECONDS, Histogram

EVERY = 0.5
"""How many seconds lie between two looks."""


class LoopLag:
    """Looks now and then how long after its time a timer of the loop is served."""

    def __init__(self) -> None:
        self.lag = Histogram(SECONDS)
        """In seconds, of each look."""

    async def run(self, every: float = EVERY) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + every
            await asyncio.sleep(every)
            self.lag.observe(max(0.0, loop.time() - due))
