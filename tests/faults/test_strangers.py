"""Sockets of those who have no token, held open by the thousand."""

import asyncio
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from faults.backends import Account, BackEnd
from faults.connections import abrupt, connect, request_for
from faults.devices import Place
from faults.gauge import percentile, shown
from faults.report import Report, times
from faults.served import MIB, served
from support import PATIENCE, eventually, token

STRANGERS = 2000
DEVICES = times(100)

# What a stranger sends: nothing, pieces of a handshake, or all of one without a token. What
# stops in the middle of one goes on with a byte now and then.
KINDS = (
    b"",
    request_for({})[:40],
    request_for({})[:-2],
    request_for({}),
    request_for({"token": "x"}),
)
SLOWLY = 1
"""Which of them sends a byte now and then."""

PAUSE = 0.2
"""How many seconds lie between two bytes of those who send slowly."""


class Stranger(asyncio.Protocol):
    """Begins as it is told, reads whatever comes, and answers nothing."""

    def __init__(self, begin: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin = begin
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        abrupt(transport.get_extra_info("socket"))
        self._transport = transport
        transport.write(self._begin)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it ended
        self._transport = None
        if not self.ended.done():
            self.ended.set_result(None)

    def trickle(self) -> None:
        """Send one byte more, if it still can."""
        if self._transport is not None:
            self._transport.write(b"x")

    def drop(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()


class Strangers:
    """Holds sockets open; one that the server ends is replaced at once."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._at = (address.hostname, address.port)
        self.came = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._there: dict[int, Stranger] = {}

    @property
    def there(self) -> int:
        """How many are connected."""
        return len(self._there)

    def come(self, count: int) -> None:
        """Have so many held from now on."""
        self._tasks = [asyncio.create_task(self._hold(number)) for number in range(count)]
        self._tasks.append(asyncio.create_task(self._trickle()))

    async def leave(self) -> None:
        """Hold none any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for stranger in self._there.values():
            stranger.drop()

    async def _hold(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            _, stranger = await loop.create_connection(
                lambda: Stranger(KINDS[number % len(KINDS)]), *self._at
            )
            self.came += 1
            self._there[number] = stranger
            await asyncio.wait([stranger.ended])
            del self._there[number]

    async def _trickle(self) -> None:
        while True:
            for number, stranger in self._there.items():
                if number % len(KINDS) == SLOWLY:
                    stranger.trickle()
            await asyncio.sleep(PAUSE)


@pytest.mark.fault("strangers hold sockets open")
@pytest.mark.gen_test(timeout=300)
async def test_devices_connect_at_once_beside_two_thousand_strangers(
    tmp_path: Path, report: Report
) -> None:
    account, took, places = Account(), list[float](), list[Place]()
    settings = {"server.handshake_timeout": "2s"}
    async with (
        served(tmp_path, settings) as (service, process),
        BackEnd(service.internal_url) as back_end,
    ):
        resident = process.forget_peak()
        strangers = Strangers(service.public_url)
        strangers.come(STRANGERS)
        await eventually(lambda: process.descriptors() > STRANGERS * 0.9, within=60.0)
        for number in range(DEVICES):
            place = Place(f"user-{number}")
            places.append(place)
            began = time.monotonic()
            connection = await connect(service.public_url, {"token": token(place.user)}, place.take)
            await eventually(lambda: places[-1].live, within=PATIENCE.total_seconds())
            took.append(time.monotonic() - began)
            account.note([place.user], await back_end.emit({"userId": place.user, "type": "E"}))
            await eventually(lambda: len(places[-1].seqs) == 1)
            connection.drop()
            await connection.closed
        # They came and were parted from several times over.
        await eventually(lambda: strangers.came > 2 * STRANGERS, within=60.0)
        grown = process.peak() - resident
        await strangers.leave()
        await eventually(lambda: process.descriptors() < STRANGERS / 10)
    assert percentile(took, 0.5) < 1.0
    assert grown < 64 * MIB
    report.note(
        "strangers hold sockets open",
        how=f"{STRANGERS} sockets: silent, in the middle of a handshake with a byte now and then, "
        "and refused ones that answer no close frame; each that is ended comes back "
        "(`handshake_timeout` 10 s)",
        tried=f"{DEVICES} devices connect beside them, one after the other",
        checked="each is live and gets its event; strangers are ended in time; no descriptor is "
        "left of them",
        lost=account.lost(service.log, places),
        figures=f"a device was live after {shown(took)}, at most {max(took) * 1000:.0f} ms; "
        f"{strangers.came} strangers came; memory grew by {grown / MIB:.0f} MiB at most",
    )
