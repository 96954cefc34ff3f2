"""What all outboxes together keep, and who may have how much of it: ``budget``."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pytest

from archibald_rt.budget import PAGES, RESERVED, SHARES, Bounded, Budget
from support import PATIENCE

KIB = 1024
LARGEST = 100
MANY = 100_000


class Box(Bounded):
    """An outbox whose device reads when it is told to."""

    def __init__(
        self, budget: Budget, *, limit: int = 0, relieve: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(budget, limit=limit)
        self._relieved = relieve

    @property
    def kept(self) -> int:
        return self._kept

    def push(self, data: bytes) -> None:
        self._kept += len(data)
        self.budget.take(len(data))

    def read(self, count: int) -> None:
        self._release(count)

    def read_all(self) -> None:
        self._release(self._kept)

    def _relieve(self) -> None:
        self._relieved()


def small(*, limit: int = 16 * KIB, largest: int = LARGEST) -> Budget:
    return Budget(limit=limit, largest=largest)


def fill(box: Box, size: int = 1) -> int:
    """Offer as many messages of a size as are taken; returns how many these are."""
    for count in range(MANY):
        if not box.offer(b"x" * size):
            return count
    raise AssertionError("it is never full")


def fill_all(boxes: Sequence[Box]) -> None:
    """Offer a byte now to one, now to another, until none takes any more."""
    for _ in range(MANY):
        if not any([box.offer(b"x") for box in boxes]):  # noqa: C419 - each is to be offered it
            return
    raise AssertionError("they are never full")


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Page:
    """One who asks for a page and has it until told to go on."""

    def __init__(self, asking: AbstractAsyncContextManager[int]) -> None:
        self.granted: int | None = None
        self._read = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._have(asking))

    async def _have(self, asking: AbstractAsyncContextManager[int]) -> None:
        async with asking as granted:
            self.granted = granted
            await self._read.wait()

    async def done(self) -> None:
        self._read.set()
        await asyncio.wait_for(self.task, PATIENCE.total_seconds())

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


@contextmanager
def no_memory_for_pages(budget: Budget) -> Iterator[None]:
    """Let a byte too little be free for a page, for the length of a block."""
    # Two events, over the part that is for live ones.
    count = budget.free - budget.limit // RESERVED - 2 * budget.largest + 1
    budget.take(count)
    yield
    budget.give(count)


# Counting


def test_what_is_taken_is_used_until_it_is_given_back() -> None:
    budget = small(limit=1000, largest=100)
    assert (budget.used, budget.free) == (0, 1000)
    budget.take(300)
    assert (budget.used, budget.free) == (300, 700)
    budget.take(800)
    assert (budget.used, budget.free) == (1100, -100)
    budget.give(1100)
    assert (budget.used, budget.free) == (0, 1000)


@pytest.mark.gen_test
async def test_a_limit_of_0_is_none_and_is_counted_all_the_same() -> None:
    budget = Budget(limit=0, largest=LARGEST)
    box = Box(budget)
    for _ in range(100):
        assert box.offer(bytes(2**20))
    assert budget.used == 100 * 2**20
    box.read_all()
    pages = [Page(box.room(2**30)) for _ in range(10 * PAGES)]
    await turns()
    assert [page.granted for page in pages] == [2**30] * len(pages)
    for page in pages:
        await page.done()
    assert budget.used == 0


# Offers


def test_one_alone_may_hold_half_of_what_can_be_spare() -> None:
    budget = small()
    spare = budget.spare
    assert fill(Box(budget)) == spare // 2


@pytest.mark.parametrize("count", [1, 2, 10, 200])
def test_of_those_that_do_not_read_each_ends_with_the_share_of_one_more(count: int) -> None:
    budget = small()
    spare = budget.spare
    boxes = [Box(budget) for _ in range(count)]
    fill_all(boxes)
    share = spare // (count + 1)
    assert all(abs(box.kept - share) <= 1 for box in boxes)
    # As much as each has stays spare, and the reserves are as they were.
    assert abs(budget.spare - share) <= count
    assert budget.free - budget.spare == 16 * KIB - spare


@pytest.mark.gen_test
async def test_those_who_are_offered_more_than_they_read_keep_no_page_from_anybody() -> None:
    # As little as a limit may be: four of the largest events.
    budget = small(limit=4 * LARGEST)
    fill_all([Box(budget) for _ in range(20)])
    page = Page(budget.page(1000))
    await turns()
    assert page.granted == LARGEST
    await page.done()


def test_an_outbox_that_is_empty_takes_from_the_last_reserve_and_others_do_not() -> None:
    budget = small(limit=16 * KIB)
    healthy = Box(budget)
    budget.take(budget.free - 500)
    assert healthy.offer(b"x" * 300)
    assert not healthy.offer(b"x")
    healthy.read_all()
    assert healthy.offer(b"x" * 500)
    assert budget.free == 0
    assert not Box(budget).offer(b"x")


def test_what_does_not_fit_its_own_bound_is_refused_unless_it_is_empty() -> None:
    budget = small()
    box = Box(budget, limit=100)
    assert box.offer(b"x" * 1000)
    assert not box.offer(b"x")
    box.read_all()
    assert box.offer(b"x" * 60)
    assert not box.offer(b"x" * 41)
    assert box.offer(b"x" * 40)


def test_before_anything_is_refused_all_outboxes_hand_on_what_they_can() -> None:
    budget = small()
    others = [Box(budget) for _ in range(3)]
    fill_all(others)
    message = bytes(budget.spare + 1)
    refused = Box(budget)
    refused.push(b"x")
    assert not refused.offer(message)

    def relieve() -> None:
        for other in others:
            other.read_all()

    taken = Box(budget, relieve=relieve)
    taken.push(b"x")
    assert taken.offer(message)
    assert [other.kept for other in others] == [0, 0, 0]


def test_what_is_small_is_pushed_in_any_case_and_counted() -> None:
    budget = small()
    budget.take(budget.free)
    box = Box(budget)
    box.push(b"x" * 100)
    assert budget.used == 16 * KIB + 100
    box.read_all()
    assert budget.free == 0


# Pages


@pytest.mark.gen_test
async def test_a_page_gets_what_is_wanted_where_there_is_plenty() -> None:
    budget = small(limit=SHARES * KIB * 2)
    async with budget.page(KIB) as granted:
        assert granted == KIB
        # It and one more event, as long as it is under way.
        assert budget.used == KIB + LARGEST
    assert budget.used == 0


@pytest.mark.gen_test
async def test_a_page_gets_a_share_of_what_is_free_and_room_for_the_largest_event() -> None:
    budget = small(limit=SHARES * KIB)
    async with budget.page(2**30) as granted:
        assert granted == SHARES * KIB * 15 // 16 // SHARES
    budget.take(budget.limit // 2)
    async with budget.page(2**30) as granted:
        assert granted == SHARES * KIB * 7 // 16 // SHARES
    budget.take(budget.limit * 7 // 16 - 50 * KIB)
    async with budget.page(2**30) as granted:
        assert granted == LARGEST
    async with budget.page(10) as granted:
        assert granted == 10


@pytest.mark.gen_test
async def test_only_a_few_pages_are_under_way_at_once_first_come_first_served() -> None:
    budget = small()
    pages = [Page(budget.page(10)) for _ in range(3 * PAGES)]
    await turns()
    for begun in range(PAGES, len(pages)):
        assert [page.granted is not None for page in pages].count(True) == begun
        assert pages[begun].granted is None
        await pages[begun - PAGES].done()
        await turns()
        assert pages[begun].granted is not None
    for page in pages[-PAGES:]:
        await page.done()
    assert budget.used == 0


@pytest.mark.gen_test
async def test_a_page_waits_until_enough_is_given_back_first_come_first_served() -> None:
    budget = small()
    with no_memory_for_pages(budget):
        pages = [Page(budget.page(10)) for _ in range(2 * PAGES)]
        await turns()
        assert [page.granted for page in pages] == [None] * len(pages)
        used = budget.used
        budget.give(1)
        await turns()
        # It is enough for one.
        assert [page.granted for page in pages] == [10] + [None] * (len(pages) - 1)
        budget.take(1)
        for page in pages:
            assert budget.used == used + 10 + LARGEST
            budget.give(1)
            await page.done()
            await turns()
            budget.take(1)
    assert budget.used == 0


@pytest.mark.gen_test
async def test_memory_that_is_taken_again_before_a_page_wakes_is_not_lent_twice() -> None:
    budget = small()
    with no_memory_for_pages(budget):
        page = Page(budget.page(10))
        await turns()
        for _ in range(3):
            budget.give(1)
            budget.take(1)
            await turns()
            assert page.granted is None
        budget.give(1)
        await turns()
        assert page.granted == 10
        budget.take(1)
        await page.done()
    assert budget.used == 0


@pytest.mark.gen_test
@pytest.mark.parametrize("place", ["turn", "line", "memory", "woken", "page"])
async def test_one_who_gives_up_at_any_point_keeps_nothing_and_holds_nobody_up(place: str) -> None:
    budget = small()
    with no_memory_for_pages(budget):
        pages = [Page(budget.page(10)) for _ in range(PAGES + 2)]
        await turns()
        gone = {"turn": -1, "line": 1, "memory": 0, "woken": 0, "page": 0}[place]
        if place in {"woken", "page"}:
            budget.give(1)
            await turns(0 if place == "woken" else 5)
            assert (pages[0].granted is not None) == (place == "page")
            budget.take(1)
        await pages[gone].cancel()
        del pages[gone]
        await turns()
        assert [page.granted for page in pages] == [None] * len(pages)
        for page in pages:
            budget.give(1)
            await turns()
            assert page.granted == 10
            budget.take(1)
            await page.done()
            await turns()
    assert budget.used == 0


@pytest.mark.gen_test
async def test_a_page_that_fails_is_given_back() -> None:
    budget = small()
    for _ in range(2 * PAGES):
        with pytest.raises(OSError, match="disk"):
            async with budget.page(10):
                raise OSError("disk")
    assert budget.used == 0


def step(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has to end without waiting for anything."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits for something")


@pytest.mark.gen_test
async def test_with_memory_at_hand_nothing_is_awaited_and_never_at_the_end() -> None:
    for budget in (small(), Budget(limit=0, largest=LARGEST)):
        for asking in (budget.page(10), Box(budget).room(10)):
            assert step(asking.__aenter__()) == 10
            waiting = [Page(budget.page(10)) for _ in range(2 * PAGES)]
            await turns()
            step(asking.__aexit__(None, None, None))
            for page in waiting:
                await page.done()
        assert budget.used == 0


# Room


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("total", "limit"),
    [
        (0, 1000),
        # A share of what is spare besides the 750 bytes that are gone is 250 bytes, too.
        ((SHARES * 250 + 250) * 8 // 7, 4000),
    ],
)
async def test_there_is_room_for_a_page_once_no_more_is_kept_than_a_quarter_or_a_share(
    total: int, limit: int
) -> None:
    budget = small(limit=total)
    box = Box(budget, limit=limit)
    box.push(b"x" * 1000)
    page = Page(box.room(500))
    await turns()
    box.read(749)
    await turns()
    assert [page.granted] == [None]
    box.read(1)
    await turns()
    assert page.granted
    await page.done()
    box.read_all()
    assert budget.used == 0


@pytest.mark.gen_test
async def test_where_memory_is_short_only_one_that_has_drained_whole_gets_a_page() -> None:
    budget = small()
    stalled, reading = Box(budget, limit=KIB), Box(budget, limit=KIB)
    for box in (stalled, reading):
        box.push(b"x" * 200)
    budget.take(budget.spare + 200)
    pages = [Page(box.room(10)) for box in (stalled, reading)]
    await turns()
    reading.read(199)
    await turns()
    assert [page.granted for page in pages] == [None, None]
    reading.read(1)
    await turns()
    assert [page.granted for page in pages] == [None, 10]
    await pages[1].done()
    await pages[0].cancel()
