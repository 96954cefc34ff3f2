"""Heartbeats, expired tokens and stalls, by one task: ``sweep``."""

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest

from archibald_rt.sweep import Sweep
from support import eventually


class Connection:
    """A connection that notes what the sweep does with it."""

    def __init__(self, *, on_beat: Callable[["Connection"], None] | None = None) -> None:
        self.beats: list[float] = []
        self.looks: list[float] = []
        self.expired = 0
        self._on_beat = on_beat

    def beat(self) -> None:
        self.beats.append(asyncio.get_running_loop().time())
        if self._on_beat is not None:
            self._on_beat(self)

    def expire(self) -> None:
        self.expired += 1

    def check_progress(self, now: float) -> None:
        self.looks.append(now)


@asynccontextmanager
async def running(sweep: Sweep) -> AsyncIterator[Sweep]:
    task = asyncio.get_running_loop().create_task(sweep.run())
    try:
        yield sweep
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.gen_test
async def test_every_connection_gets_its_beats_at_its_own_turns() -> None:
    async with running(Sweep(heartbeat=0.1, stall_timeout=0)) as sweep:
        first, second = Connection(), Connection()
        added = asyncio.get_running_loop().time()
        sweep.add(first)
        await eventually(lambda: first.beats)
        second_added = asyncio.get_running_loop().time()
        sweep.add(second)
        await eventually(lambda: len(first.beats) >= 3 and len(second.beats) >= 3)
        assert first.beats[0] - added >= 0.1
        assert second.beats[0] - second_added >= 0.1
        for beats in (first.beats, second.beats):
            assert all(later - earlier >= 0.09 for earlier, later in pairwise(beats))


@pytest.mark.gen_test
async def test_one_may_have_beats_of_its_own_or_none_beside_the_others() -> None:
    async with running(Sweep(heartbeat=0.2, stall_timeout=0.2)) as sweep:
        plain, quick, silent, gone = (Connection() for _ in range(4))
        sweep.add(plain)
        sweep.add(quick, every=0.1)
        sweep.add(silent, every=0)
        sweep.add(gone, every=0.1)
        sweep.remove(gone)
        await eventually(lambda: len(plain.beats) >= 3 and len(silent.looks) >= 3)
        # Where all had the same heartbeat, none could get ahead of another by more than one.
        await eventually(lambda: len(quick.beats) > len(plain.beats) + 1)
        assert silent.beats == gone.beats == gone.looks == []


@pytest.mark.gen_test
async def test_one_that_is_removed_gets_nothing_more() -> None:
    async with running(Sweep(heartbeat=0.04, stall_timeout=0.2)) as sweep:
        gone, stays = Connection(), Connection()
        for each in (gone, stays):
            sweep.add(each)
            sweep.expire_at(each, time.time() + 0.2)
        await eventually(lambda: gone.beats and gone.looks)
        sweep.remove(gone)
        sweep.remove(gone)
        beats, looks = len(gone.beats), len(gone.looks)
        sentinel = len(stays.beats) + 2
        await eventually(
            lambda: len(stays.beats) >= sentinel and len(stays.looks) > looks and stays.expired
        )
        assert (len(gone.beats), len(gone.looks), gone.expired) == (beats, looks, 0)


@pytest.mark.gen_test
async def test_connections_may_go_while_they_are_swept() -> None:
    async with running(Sweep(heartbeat=0.04, stall_timeout=0)) as sweep:
        connections = [Connection(on_beat=sweep.remove) for _ in range(10)]
        for each in connections:
            sweep.add(each)
        await eventually(lambda: all(each.beats for each in connections))
        stays = Connection()
        sweep.add(stays)
        await eventually(lambda: len(stays.beats) >= 2)
        assert [len(each.beats) for each in connections] == [1] * 10


@pytest.mark.gen_test
async def test_a_heartbeat_of_0_is_none_and_a_stall_timeout_of_0_no_look() -> None:
    async with running(Sweep(heartbeat=0, stall_timeout=0.2)) as looking:
        connection = Connection()
        looking.add(connection)
        await eventually(lambda: len(connection.looks) >= 2)
        assert connection.beats == []
    async with running(Sweep(heartbeat=0.04, stall_timeout=0)) as beating:
        connection = Connection()
        beating.add(connection)
        await eventually(lambda: len(connection.beats) >= 2)
        assert connection.looks == []


@pytest.mark.gen_test
async def test_with_both_off_tokens_expire_all_the_same() -> None:
    looks = 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return time.time()

    async with running(Sweep(heartbeat=0, stall_timeout=0, wall_clock=clock)) as sweep:
        connection = Connection()
        sweep.add(connection)
        sweep.expire_at(connection, time.time() - 1)
        await eventually(lambda: connection.expired)
        assert looks < 5
        assert (connection.beats, connection.looks) == ([], [])


@pytest.mark.gen_test
async def test_a_device_is_looked_at_five_times_before_a_stall_may_be_called() -> None:
    async with running(Sweep(heartbeat=0, stall_timeout=0.5)) as sweep:
        connection = Connection()
        sweep.add(connection)
        await eventually(lambda: len(connection.looks) >= 4)
        looks = connection.looks
        gaps = [later - earlier for earlier, later in pairwise(looks)]
        assert min(gaps) >= 0.099
        assert sorted(gaps)[1] < 0.3


@pytest.mark.gen_test
async def test_a_token_expires_by_the_wall_clock_and_not_before() -> None:
    now = [1000.0]
    sweep = Sweep(heartbeat=0.04, stall_timeout=0, wall_clock=lambda: now[0])
    async with running(sweep):
        soon, later, never = Connection(), Connection(), Connection()
        for each, when in ((later, 1200.0), (soon, 1100.0), (never, None)):
            sweep.add(each)
            sweep.expire_at(each, when)
        await eventually(lambda: len(never.beats) >= 2)
        assert soon.expired == 0
        now[0] = 1100.0
        await eventually(lambda: soon.expired)
        assert (later.expired, never.expired) == (0, 0)
        now[0] = 1e12
        await eventually(lambda: later.expired)
        assert (soon.expired, never.expired) == (1, 0)


@pytest.mark.gen_test
async def test_a_new_token_takes_the_place_of_the_old_one() -> None:
    now = [1000.0]
    sweep = Sweep(heartbeat=0.04, stall_timeout=0, wall_clock=lambda: now[0])
    async with running(sweep):
        longer, shorter, endless, sentinel = (Connection() for _ in range(4))
        for each in (longer, shorter, endless, sentinel):
            sweep.add(each)
        for each, when in ((longer, 1100.0), (shorter, 1300.0), (endless, 1100.0)):
            sweep.expire_at(each, when)
        for each, renewed in ((longer, 1300.0), (shorter, 1100.0), (endless, None)):
            sweep.expire_at(each, renewed)
        sweep.expire_at(sentinel, 1150.0)
        now[0] = 1200.0
        await eventually(lambda: sentinel.expired)
        assert (longer.expired, shorter.expired, endless.expired) == (0, 1, 0)
        now[0] = 1300.0
        await eventually(lambda: longer.expired)
        assert endless.expired == 0


@pytest.mark.gen_test
async def test_connections_that_have_gone_are_not_kept_until_their_tokens_expire() -> None:
    sweep = Sweep(heartbeat=30, stall_timeout=0)
    gone: list[weakref.ref[Connection]] = []
    for _ in range(1000):
        connection = Connection()
        sweep.add(connection)
        sweep.expire_at(connection, time.time() + 86400)
        sweep.remove(connection)
        gone.append(weakref.ref(connection))
    del connection
    gc.collect()
    assert sum(each() is not None for each in gone) <= 200


@pytest.mark.gen_test
async def test_a_token_that_is_sent_again_and_again_takes_no_memory_and_still_expires() -> None:
    now = [1000.0]
    sweep = Sweep(heartbeat=0.04, stall_timeout=0, wall_clock=lambda: now[0])
    connection, other = Connection(), Connection()
    sweep.add(connection)
    sweep.expire_at(connection, 1100.0)
    sweep.expire_at(other, 1050.0)
    for _ in range(10_000):
        sweep.expire_at(connection, 1100.0)
    assert len(sweep._expiries) <= 200  # noqa: SLF001 - how much is kept is what is asked
    async with running(sweep):
        now[0] = 1060.0
        await eventually(lambda: other.expired)
        assert connection.expired == 0
        now[0] = 1100.0
        await eventually(lambda: connection.expired)


@pytest.mark.gen_test
async def test_a_connection_that_went_is_kept_by_nothing_although_its_token_lives_on() -> None:
    sweep = Sweep(heartbeat=0, stall_timeout=0)
    connection = Connection()
    gone = weakref.ref(connection)
    sweep.add(connection)
    sweep.expire_at(connection, time.time() + 3600)
    sweep.remove(connection)
    del connection
    gc.collect()
    assert gone() is None


@pytest.mark.gen_test
async def test_one_that_is_removed_after_a_look_is_not_kept_until_the_next() -> None:
    async def come_and_go() -> weakref.ref[Connection]:
        connection = Connection()
        sweep.add(connection)
        await eventually(lambda: connection.looks)
        sweep.remove(connection)
        return weakref.ref(connection)

    async with running(Sweep(heartbeat=0, stall_timeout=0.1)) as sweep:
        gone = await come_and_go()
        gc.collect()
        assert gone() is None
