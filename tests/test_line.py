"""The requests that wait in the order queue: ``line``."""

import pytest

from archibald_rt import line as line_module
from archibald_rt.errors import EmissionError, LogUnavailableError, QueueFullError
from archibald_rt.events import Emission
from archibald_rt.line import OVERHEAD, Line, WeighedLine


def emission(*, durable: bool = True, size: int = 100) -> Emission:
    return Emission("u", b"x" * size, "2026-01-01T00:00:00Z", 0, durable)


@pytest.mark.gen_test
async def test_what_is_added_counts_until_it_is_done_and_not_only_until_it_is_taken() -> None:
    line = Line(max_bytes=2 * (100 + OVERHEAD))
    first, second = line.add([emission()]), line.add([emission()])
    with pytest.raises(QueueFullError, match="1200 bytes are queued, at most 1200 may be"):
        line.add([emission()])
    assert line.next_group() == [first, second]
    with pytest.raises(QueueFullError):
        line.add([emission()])
    line.done(first)
    line.add([emission()])
    assert line.size == 1200


@pytest.mark.gen_test
async def test_a_request_larger_than_the_whole_line_is_taken_when_nothing_waits() -> None:
    line = Line(max_bytes=1000)
    large = line.add([emission(size=5000)])
    with pytest.raises(QueueFullError):
        line.add([emission(size=1)])
    line.next_group()
    line.done(large)
    line.add([emission(size=1)])


@pytest.mark.gen_test
async def test_transient_requests_that_are_first_are_not_grouped_with_one_that_commits() -> None:
    line = Line(max_bytes=0)
    kinds = [False, False, True, False, True]
    requests = [line.add([emission(durable=durable)]) for durable in kinds]
    assert line.next_group() == requests[:2]
    assert line.next_group() == requests[2:]
    assert not line


@pytest.mark.gen_test
async def test_a_group_ends_when_it_has_reached_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "GROUP_LIMIT", 1000)
    line = Line(max_bytes=0)
    requests = [line.add([emission()]) for _ in range(3)]
    assert line.next_group() == requests[:2]
    assert line.next_group() == requests[2:]


@pytest.mark.gen_test
async def test_a_group_is_no_heavier_than_may_be_and_a_request_that_is_gets_413() -> None:
    line = WeighedLine(max_bytes=0, most=4)
    two = [emission(), emission(durable=False), emission()]
    keyed = Emission("u", b"x", "2026-01-01T00:00:00Z", 0, durable=True, key="k")
    requests = [line.add(two), line.add([keyed]), line.add([emission()]), line.add([keyed] * 2)]
    with pytest.raises(EmissionError, match="at most 4") as refused:
        line.add([keyed, keyed, emission()])
    assert refused.value.status == 413
    assert line.next_group() == requests[:2]
    assert line.next_group() == requests[2:3]
    assert line.next_group() == requests[3:]
    assert not line


@pytest.mark.gen_test
async def test_all_that_wait_are_told_when_they_are_given_up() -> None:
    line = Line(max_bytes=0)
    waiting, gone = line.add([emission()]), line.add([emission()])
    gone.answer.cancel()
    line.give_up(LogUnavailableError("the server is going away"))
    assert not line
    with pytest.raises(LogUnavailableError):
        await waiting.answer
    # Who asked may have left meanwhile.
    gone.finish([])
    gone.fail(LogUnavailableError("too late"))
