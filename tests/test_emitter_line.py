"""The emissions that wait for their batch."""

import asyncio

import pytest

from archibald_rt.emitter import EmitterClosedError
from archibald_rt.emitter.line import OVERHEAD, Line, Pending


def pending(name: str = "", *, broadcast: bool = False) -> Pending:
    answer = asyncio.get_running_loop().create_future()
    return Pending(
        b'{"type":"%b"' % name.encode(),
        b"",
        name,
        answer,
        until=0.0,
        own_key=False,
        by_class=True,
        broadcast=broadcast,
    )


class Callers:
    """Callers who come for room, each putting its own emission in line when it has it."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.came_in: list[str] = []

    def come(self, name: str) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(self._come(name))

    async def _come(self, name: str) -> None:
        await self._line.room()
        try:
            self.came_in.append(name)
            self._line.add(pending(name))
        finally:
            self._line.let_in()


async def turns(count: int = 5) -> None:
    """Let all that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.gen_test
async def test_nobody_overtakes_those_who_wait_outside() -> None:
    line = Line(max_bytes=OVERHEAD)
    callers = Callers(line)
    for name in "abc":
        callers.come(name)
    await turns()
    assert callers.came_in == ["a"]
    (first,) = line.take(max_count=10, max_bytes=1000)
    # It comes in the very turn in which there is room again.
    late = callers.come("d")
    line.done(first)
    await turns()
    assert callers.came_in == ["a", "b"]
    for _ in "cd":
        line.done(*line.take(max_count=1, max_bytes=1000))
        await turns()
    assert callers.came_in == ["a", "b", "c", "d"]
    assert late.done()


@pytest.mark.gen_test
async def test_one_who_leaves_while_it_is_let_in_lets_the_next_in() -> None:
    line = Line(max_bytes=OVERHEAD)
    callers = Callers(line)
    _, leaving, _ = [callers.come(name) for name in "abc"]
    await turns()
    line.done(*line.take(max_count=1, max_bytes=1000))
    leaving.cancel()
    await turns()
    assert callers.came_in == ["a", "c"]


@pytest.mark.gen_test
async def test_a_batch_leaves_out_what_nobody_waits_for_and_parts_at_a_broadcast() -> None:
    line = Line(max_bytes=100 * OVERHEAD)
    all_of_them = [pending(str(n), broadcast=n == 4) for n in range(7)]
    for each in all_of_them:
        line.add(each)
    for n in (1, 5):
        all_of_them[n].answer.cancel()
    batches = []
    while line:
        batch = line.take(max_count=10, max_bytes=1000)
        batches.append([each.type for each in batch])
        for each in batch:
            line.done(each)
    assert batches == [["0", "2", "3"], ["4"], ["6"]]
    assert line.size == 0


@pytest.mark.gen_test
async def test_a_line_that_is_given_up_answers_all_and_counts_none() -> None:
    line = Line(max_bytes=OVERHEAD)
    inside = pending()
    line.add(inside)
    outside = [asyncio.get_running_loop().create_task(line.room()) for _ in range(2)]
    await turns()
    line.give_up(EmitterClosedError("over"))
    with pytest.raises(EmitterClosedError):
        await inside.answer
    for each in outside:
        with pytest.raises(EmitterClosedError):
            await each
    assert not line
    assert line.size == 0
