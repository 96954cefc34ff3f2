"""What several places emit at a steady rate, as each of them and a reckoning afterwards know it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from benchmarks.load.dialects import DURABLE, TRANSIENT, Emission

_STRIDE = 7919
"""A prime: steps by it go over all users before they meet one again."""


@dataclass(frozen=True)
class Traffic:
    """`rate` durable events a second of all places together, for so many `users`, for `seconds`.

    Each is followed by `transient` transient ones of the same user, who is called by a number.
    """

    users: int
    places: int
    rate: float
    seconds: float
    transient: int = 0

    @property
    def count(self) -> int:
        """How many durable events each place emits in a round."""
        return max(2, int(self.rate / self.places * self.seconds))

    @property
    def events(self) -> int:
        """How many events of both kinds that are."""
        return self.count * (1 + self.transient)

    def of(self, place: int) -> Iterator[int]:
        """Go over the users for whom a place emits, by number."""
        for number in range(self.count):
            yield (number * self.places + place) * _STRIDE % self.users

    def owed(self, to: Callable[[int], bool]) -> int:
        """Return how many durable events the users come to who are asked for by number."""
        return sum(to(user) for place in range(self.places) for user in self.of(place))

    async def pace(self, place: int, emit: Callable[[Emission], Awaitable[object]]) -> list[float]:
        """Emit what a place does, each durable event when it is due.

        Returns how many seconds behind that each was answered.
        """
        every = self.places / self.rate
        took: list[float] = []

        async def one(user: str, due: float) -> None:
            await emit(Emission(user, DURABLE))
            took.append(time.perf_counter() - due)
            # Before it is answered they might overtake it, and be dropped at another server.
            for _ in range(self.transient):
                await emit(Emission(user, TRANSIENT))

        async with asyncio.TaskGroup() as group:
            began = time.perf_counter()
            for number, user in enumerate(self.of(place)):
                due = began + number * every
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(one(f"user-{user}", due))
        return took
