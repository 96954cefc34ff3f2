"""Devices of several users behind one address, and a back end that emits to all of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from faults.backends import Account, BackEnd
from faults.devices import Follower, Place
from faults.service import Service

PIECE = 8 * 1024
"""How large the payloads are of what is emitted by size."""


class Crowd:
    """One device for each of so many users; made by `crowd`."""

    def __init__(self, back_end: BackEnd, devices: Sequence[Follower]) -> None:
        self.back_end = back_end
        self.devices = devices
        self.account = Account()
        self.users = [device.place.user for device in devices]

    @property
    def places(self) -> list[Place]:
        """Where the devices stand."""
        return [device.place for device in self.devices]

    @property
    def codes(self) -> Counter[int]:
        """How connections ended."""
        return sum((device.codes for device in self.devices), start=Counter[int]())

    @property
    def ends(self) -> int:
        """How many connections have ended."""
        return sum(device.codes.total() for device in self.devices)

    async def emit(self, size: int = 1) -> None:
        """Emit to each user one event after the other, so many bytes for each."""
        for at in range(0, size, PIECE):
            payload = "x" * min(PIECE, size - at)
            batch = [{"userId": user, "type": "E", "payload": payload} for user in self.users]
            self.account.note(self.users, await self.back_end.emit(batch))

    def up_to_date(self) -> bool:
        """Whether all are live and have the last event that was answered."""
        answered = self.account.answered
        return all(
            place.live and place.seqs[-1:] == answered.get(place.user, [])[-1:]
            for place in self.places
        )

    async def stats(self) -> Any:
        """Return the server's own figures."""
        return await self.back_end.get("/internal/stats")

    async def nobody(self) -> bool:
        """Whether the server has no device any more."""
        return (await self.stats())["connections"]["total"] == 0  # type: ignore[no-any-return]  # of JSON


@asynccontextmanager
async def crowd(
    service: Service, url: Callable[[], str], *, users: int, silence: float | None = None
) -> AsyncIterator[Crowd]:
    """Have a device of each user follow its stream for the length of a block."""
    async with BackEnd(service.internal_url) as back_end, asyncio.TaskGroup() as group:
        devices = [Follower(url, f"user-{number}", silence=silence) for number in range(users)]
        tasks = [group.create_task(device.follow()) for device in devices]
        try:
            yield Crowd(back_end, devices)
        finally:
            for task in tasks:
                task.cancel()
