"""What several places emit at a steady rate, as each of them and a reckoning afterwards know it."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from benchmarks.load.dialects import DURABLE, TRANSIENT, Emission

_STRIDE = 7919
"""A prime: steps by it go over all users before they meet one again."""


@dataclass(frozen=True)
class Traffic:
    """`rate` durable events a second of all places together, for so many `users`, for `seconds`.

    Each is followed by `transient` transient ones of the same user.
    """

    users: int
    places: int
    rate: float
    seconds: float
    transient: int = 0

    @property
    def count(self) -> int:
        """How many durable events each place emits in a round."""
        return max(1, int(self.rate / self.places * self.seconds))

    def emissions(self, place: int) -> Iterator[tuple[int, Emission]]:
        """Go over what a place emits: the number of the user, who is named by it, and what."""
        for number in range(self.count):
            user = (number * self.places + place) * _STRIDE % self.users
            for kind in (DURABLE, *[TRANSIENT] * self.transient):
                yield user, Emission(f"user-{user}", kind)

    def owed(self, to: Callable[[int], bool]) -> int:
        """Return how many events the users come to who are asked for by number."""
        count = Counter(user for place in range(self.places) for user, _ in self.emissions(place))
        return sum(times for user, times in count.items() if to(user))

    async def pace(self, place: int, emit: Callable[[Emission], Awaitable[object]]) -> list[float]:
        """Emit what a place does, each when it is due; returns how long each took, in seconds."""
        events = [emission for _, emission in self.emissions(place)]
        every = self.count * self.places / self.rate / len(events)
        took: list[float] = []

        async def one(emission: Emission, due: float) -> None:
            await emit(emission)
            took.append(time.perf_counter() - due)

        async with asyncio.TaskGroup() as group:
            began = time.perf_counter()
            for number, emission in enumerate(events):
                due = began + number * every
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(emission, due))
        return took
