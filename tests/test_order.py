"""The order queue over a real log, of each engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from archibald_rt.errors import (
    DrainingError,
    EmissionError,
    LogBrokenError,
    LogUnavailableError,
    LogUncertainError,
    QueueFullError,
)
from archibald_rt.eventlog import EventLog, KeyConflict, Stored
from archibald_rt.eventlog.nats.arrivals import UNHEARD
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.eventlog.sqlite import open_sqlite
from archibald_rt.events import Emission, Outcome
from archibald_rt.hub import Hub
from archibald_rt.order import OrderQueue
from logged import logged
from natsservers import NatsServer, nats_server
from support import eventually

STAMP = "2026-01-01T00:00:00.000Z"


def emission(
    number: int = 0,
    *,
    user: str | None = "u",
    durable: bool = True,
    key: str | None = None,
    item: int | None = None,
) -> Emission:
    tail = b'"type":"A","payload":%d,"timestamp":"%b"}' % (number, STAMP.encode())
    return Emission(user, tail, STAMP, 0, durable, key, item=item)


class Gate:
    """The real log behind a gate: an append waits to be let through, or is made to fail."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.open = asyncio.Event()
        self.open.set()
        self.groups: list[int] = []
        self.probes = 0
        self.failing: Exception | None = None
        self.failing_probe: Exception | None = None

    @property
    def head(self) -> int:
        return self._log.head

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(
        self, groups: Sequence[Sequence[Emission]]
    ) -> list[list[Stored] | KeyConflict]:
        self.groups.append(len(groups))
        await self.open.wait()
        if self.failing is not None:
            raise self.failing
        return await self._log.append(groups)

    async def probe(self) -> None:
        self.probes += 1
        if (failing := self.failing or self.failing_probe) is not None:
            raise failing
        await self._log.probe()


class Line:
    """An order queue with its log and hub, and what it was told to be broken by."""

    def __init__(self, log: EventLog, *, max_bytes: int = 0) -> None:
        self.log = Gate(log)
        self.hub = Hub(log.head, recent=1000)
        self.broken: list[BaseException] = []
        self.order = OrderQueue(
            self.log,  # type: ignore[arg-type]  # what it does not define, it passes on
            self.hub,
            max_bytes=max_bytes,
            on_broken=self.broken.append,
            probe_every=0.01,
        )
        if log.peers is not None:
            hooks = {"arrived": self.order.dispatch_arrived, "doubted": self.order.doubt}
            log.peers.attach(msgspec.structs.replace(UNHEARD, **hooks))

    def submit(self, *emissions: Emission) -> "asyncio.Future[list[Outcome]]":
        return self.order.submit(emissions)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


Opening = Callable[..., AbstractAsyncContextManager[Line]]


@pytest.fixture(params=["sqlite", "nats"])
def line(request: pytest.FixtureRequest, server: NatsServer) -> Opening:
    """Run an order queue over each engine of the log."""

    @asynccontextmanager
    async def running(folder: Path, *, max_bytes: int = 0) -> AsyncIterator[Line]:
        # One server for all tests, and of each its own stream.
        opening: AbstractAsyncContextManager[EventLog] = (
            open_sqlite(folder / "events.db")
            if request.param == "sqlite"
            else open_nats([server.url], folder.name)
        )
        async with opening as log:
            made = Line(log, max_bytes=max_bytes)
            yield made
            made.log.open.set()
            await made.order.close()

    return running


@pytest.mark.gen_test
async def test_what_queues_during_a_commit_is_the_next_group(tmp_path: Path, line: Opening) -> None:
    async with line(tmp_path) as made:
        made.log.open.clear()
        first = made.submit(emission())
        await eventually(lambda: made.log.groups == [1])
        others = [made.submit(emission(number)) for number in range(5)]
        made.log.open.set()
        seqs = [(await answer)[0].seq for answer in (first, *others)]
        assert seqs == [1, 2, 3, 4, 5, 6]
        assert made.log.groups == [1, 5]


@pytest.mark.gen_test
async def test_answers_come_in_order_and_only_after_the_commit(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.open.clear()
        order: list[int] = []
        answers = [made.submit(emission(number, durable=number % 2 == 0)) for number in range(6)]
        for answer in answers:
            answer.add_done_callback(lambda done: order.append(answers.index(done)))
        await eventually(lambda: made.log.groups)
        assert order == []
        made.log.open.set()
        await asyncio.gather(*answers)
        await eventually(lambda: order == [0, 1, 2, 3, 4, 5])


@pytest.mark.gen_test
async def test_a_transient_one_that_is_first_waits_for_no_commit(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.open.clear()
        transient = made.submit(emission(durable=False))
        durable = made.submit(emission())
        assert (await transient)[0].seq is None
        assert not durable.done()


@pytest.mark.gen_test
async def test_a_transient_one_behind_a_durable_one_waits_its_turn(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.open.clear()
        durable = made.submit(emission())
        await eventually(lambda: made.log.groups)
        transient = made.submit(emission(durable=False))
        made.log.open.set()
        await transient
        assert durable.done()


@pytest.mark.gen_test
async def test_a_refused_request_takes_nobody_with_it(tmp_path: Path, line: Opening) -> None:
    async with line(tmp_path) as made:
        ((first,),) = [await made.submit(emission(1, key="k"))]
        assert first.seq is not None
        made.log.open.clear()
        blocking = made.submit(emission())
        await eventually(lambda: len(made.log.groups) == 2)
        before = made.submit(emission(2))
        refused = made.submit(
            emission(3, item=0), emission(4, durable=False, item=1), emission(5, key="k", item=2)
        )
        after = made.submit(emission(6))
        made.log.open.set()
        with pytest.raises(EmissionError) as caught:
            await refused
        assert caught.value.status == 409
        assert caught.value.indexes == (2,)
        seqs = [(await a)[0].seq for a in (blocking, before, after)]
        assert seqs == [first.seq + each for each in (1, 2, 3)]


@pytest.mark.gen_test
async def test_while_commits_fail_transient_ones_go_on_and_a_probe_finds_the_end(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.failing = LogUnavailableError("the disk is full")
        mixed = made.submit(emission(durable=False), emission())
        with pytest.raises(LogUnavailableError):
            await mixed
        assert str(made.order.fault) == "the disk is full"
        assert (await made.submit(emission(durable=False)))[0].durable is False
        await eventually(lambda: made.log.probes > 1)
        assert made.order.fault is not None
        made.log.failing = None
        await eventually(lambda: made.order.fault is None)
        # Nothing was stored before it, but what found out that commits work.
        (first,) = await made.submit(emission())
        assert [event.seq for event in made.hub.since("u", 0) or ()] == [first.seq]
        assert made.broken == []


@pytest.mark.gen_test
async def test_why_commits_fail_is_logged_with_the_requests_and_again_for_another_reason(
    tmp_path: Path, line: Opening
) -> None:
    with logged() as lines:
        async with line(tmp_path) as made:
            for number, reason in enumerate(["full", "full", "gone"]):
                made.log.failing = LogUnavailableError(reason)
                with pytest.raises(LogUnavailableError):
                    await made.order.submit([emission()], f"request-{number}")
            made.log.failing = None
            await eventually(lambda: made.order.fault is None)
        first, second = lines.entries(event="commits fail")
        assert (first["reason"], first["request_ids"]) == ("full", ["request-0"])
        # It may have been a probe that met it, which nobody asked for.
        assert (second["reason"], second.get("request_ids", ["request-2"])) == (
            "gone",
            ["request-2"],
        )


@pytest.mark.gen_test
async def test_of_a_commit_of_unknown_outcome_each_request_is_told_its_own_keys(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.failing = LogUncertainError("unheard", keys=[["a", "b"], ["k"]])
        one = made.submit(emission(durable=False), emission(), emission())
        two = made.submit(emission(key="k"))
        for answer, keys in ((one, [None, "a", "b"]), (two, ["k"])):
            with pytest.raises(LogUncertainError) as raised:
                await answer
            assert raised.value.keys == [keys]


@pytest.mark.gen_test
async def test_a_broken_log_is_said_once_and_nothing_is_committed_after_it(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        made.log.open.clear()
        made.log.failing = LogBrokenError("fsync failed")
        unknown = made.submit(emission())
        await eventually(lambda: made.log.groups)
        waiting = made.submit(emission())
        made.log.open.set()
        with pytest.raises(LogBrokenError, match="fsync failed"):
            await unknown
        made.log.failing = None
        with pytest.raises(LogUnavailableError):
            await waiting
        with pytest.raises(DrainingError):
            made.submit(emission())
        assert [str(error) for error in made.broken] == ["fsync failed"]
        assert made.log.head == 0


@pytest.mark.gen_test
async def test_a_fault_of_the_dispatch_leaves_no_caller_waiting(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:

        async def fail(emission: Emission, seq: int | None) -> int:
            raise ValueError(f"a fault of our own at {seq}: {emission}")

        made.hub.dispatch = fail  # type: ignore[method-assign]  # a fault has to come from somewhere
        first, second = made.submit(emission()), made.submit(emission())
        with pytest.raises(LogBrokenError):
            await first
        with pytest.raises((LogBrokenError, LogUnavailableError)):
            await second
        assert len(made.broken) == 1


@pytest.mark.gen_test
async def test_the_line_is_bounded_in_bytes(tmp_path: Path, line: Opening) -> None:
    async with line(tmp_path, max_bytes=2000) as made:
        made.log.open.clear()
        accepted = [made.submit(emission(number)) for number in range(3)]
        with pytest.raises(QueueFullError):
            made.submit(emission())
        made.log.open.set()
        await asyncio.gather(*accepted)
        await eventually(lambda: made.order.size == 0)
        await made.submit(emission())


@pytest.mark.gen_test
async def test_a_closed_line_finishes_what_it_holds_and_takes_nothing_more(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        answers = [made.submit(emission(number)) for number in range(3)]
        await made.order.close()
        assert all(answer.done() for answer in answers)
        with pytest.raises(DrainingError):
            made.submit(emission())
        await made.order.close()


@pytest.mark.gen_test
async def test_a_commit_of_duplicates_alone_does_not_show_that_commits_work(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        await made.submit(emission(1, key="k"))
        made.log.failing = LogUnavailableError("the disk is full")
        with pytest.raises(LogUnavailableError):
            await made.submit(emission(2))
        # What stores nothing goes well on a full disk.
        made.log.failing, probes = None, made.log.probes
        made.log.failing_probe = LogUnavailableError("the disk is full")
        assert (await made.submit(emission(1, key="k")))[0].duplicate
        assert made.order.fault is not None
        await eventually(lambda: made.log.probes > probes)
        made.log.failing_probe = None
        await eventually(lambda: made.order.fault is None)


@pytest.mark.gen_test
async def test_a_deletion_has_its_turn_when_all_that_is_committed_is_dispatched(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:
        seen: list[tuple[int, int]] = []

        async def step() -> int:
            seen.append((made.log.head, made.hub.dispatched))
            return 3

        made.log.open.clear()
        answers = [made.submit(emission(number)) for number in range(3)]
        steps = [asyncio.ensure_future(made.order.between(step)) for _ in range(2)]
        await eventually(lambda: made.log.groups)
        later = [made.submit(emission(number)) for number in range(3)]
        assert not seen
        made.log.open.set()
        assert await asyncio.gather(*steps) == [3, 3]
        await asyncio.gather(*answers, *later)
        assert all(head == dispatched for head, dispatched in seen)
        # What waited is not kept waiting by both.
        assert seen[0][0] < seen[1][0]


@pytest.mark.gen_test
async def test_a_deletion_that_breaks_the_log_ends_it_all(tmp_path: Path, line: Opening) -> None:
    async with line(tmp_path) as made:

        async def step() -> int:
            raise LogBrokenError("a page is damaged")

        with pytest.raises(LogBrokenError):
            await made.order.between(step)
        await eventually(lambda: made.broken)
        with pytest.raises(DrainingError):
            await made.order.between(step)


@pytest.mark.gen_test
async def test_a_deletion_that_fails_for_a_passing_reason_leaves_the_line_as_it_was(
    tmp_path: Path, line: Opening
) -> None:
    async with line(tmp_path) as made:

        async def step() -> int:
            raise LogUnavailableError("the disk is full")

        with pytest.raises(LogUnavailableError):
            await made.order.between(step)
        assert (await made.submit(emission()))[0].seq == 1
        assert not made.broken


@pytest.mark.gen_test
async def test_a_closed_line_takes_no_deletion(tmp_path: Path, line: Opening) -> None:
    async with line(tmp_path) as made:
        await made.order.close()

        async def step() -> int:
            raise AssertionError("it was run")

        with pytest.raises(DrainingError):
            await made.order.between(step)


class Noting:
    """A log that takes down what it is asked for."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> object:
        self.asked.append(name)
        return getattr(self._log, name)


@pytest.mark.gen_test
async def test_a_log_of_one_server_is_asked_for_peers_at_the_start_and_at_no_event(
    tmp_path: Path,
) -> None:
    async with open_sqlite(tmp_path / "events.db") as log:
        noting = Noting(log)
        order = OrderQueue(
            noting,  # type: ignore[arg-type]  # it passes everything on
            Hub(log.head, recent=1000),
            max_bytes=0,
            on_broken=lambda _error: None,
        )
        assert "peers" in noting.asked
        noting.asked.clear()
        await order.submit([emission(1), emission(2, durable=False)])

        async def step() -> int:
            return 0

        await order.between(step)
        await order.close()
    assert "append" in noting.asked
    assert not {"peers", "most"} & set(noting.asked)
