"""The promises of the order queue, the hub, the sessions and the log, in random order.

A machine emits, connects, drops, stalls and prunes in whatever order hypothesis thinks of,
and a model (`model.World`) says what every device was to get. The first variant runs the log
as it comes, the second lets each of its calls wait at a gate before and after its work, so
that the windows between commit, dispatch, reading a page and turning live are as wide as they
can be.

A failure is printed as the steps that lead to it. ``PROPERTY_EFFORT=10`` tries ten times as
many examples; where ``CI`` is set, hypothesis always tries the same ones.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from archibald_rt.eventlog import Page
from keeping import InFile, InStream, Keeping
from model import Place, World
from natsservers import NatsServer, patient
from turns import tighten

EFFORT = float(os.environ.get("PROPERTY_EFFORT", "1"))

USERS = ["ann", "ann", "ann", "bob"]
"""One who is busy, so that its devices race, and one who must get nothing of hers."""

users = st.sampled_from(USERS)
seconds = st.integers(0, 9)
pads = st.sampled_from([0, 0, 0, 100, 700])
turns = st.sampled_from([0, 0, 1, 1, 2, 3, 5])
numbers = st.integers(0, 30)


def payload(pad: int) -> str:
    return "x" * pad


durables = st.fixed_dictionaries(
    {
        "type": st.just("D"),
        "durable": st.just(value=True),
        "second": seconds,
        "payload": pads.map(payload),
    },
    optional={"key": st.sampled_from("kl")},
)
transients = st.fixed_dictionaries(
    {
        "type": st.just("T"),
        "durable": st.just(value=False),
        "second": seconds,
        "payload": pads.map(payload),
    },
    optional={"conflate": st.sampled_from("cd")},
)
targets = st.one_of(
    users.map(lambda user: {"userId": user}),
    users.map(lambda user: {"userId": user}),
    st.just({"userIds": ["bob", "ann"]}),
)
items = st.builds(lambda to, item: {**to, **item}, targets, durables | transients)
places = st.one_of(
    st.just(Place()),
    st.just(Place("earliest")),
    st.builds(Place, st.just("seq"), numbers),
    st.builds(Place, st.just("again"), numbers),
    st.builds(Place, st.just("again"), numbers),
    st.builds(
        Place,
        st.just("text"),
        text=st.sampled_from(["another:7", "nonsense", "", "x" * 300, ":", "9:9:9"]),
    ),
)


class Promises(RuleBasedStateMachine):
    """Everything that can happen to a hub, in any order."""

    patient = False
    gates = st.just(frozenset[str]())

    @initialize(
        recent=st.sampled_from([0, 400, 400, 100_000]),
        total=st.sampled_from([0, 3000, 6000, 20_000, 200_000]),
        data=st.data(),
    )
    def begin(self, recent: int, total: int, data: st.DataObject) -> None:
        gates = data.draw(self.gates, label="gates")
        self.world = World(self.keeping(data), recent=recent, total=total, gates=gates)
        self.prepare(data)

    def prepare(self, data: st.DataObject) -> None:
        """Do what is to be done before anything else."""

    def keeping(self, data: st.DataObject) -> Keeping:
        """Return what keeps this example's log."""
        raise NotImplementedError

    def teardown(self) -> None:
        try:
            if self.world.sound:
                self.world.settle()
        finally:
            self.world.close()

    def run_on(self, turns: int, *, patient: bool = True) -> None:
        self.world.turns(turns, patient=patient or self.patient)

    @rule(emissions=st.lists(items, min_size=1, max_size=3), turns=turns)
    def emit(self, emissions: list[dict[str, Any]], turns: int) -> None:
        self.world.emit(emissions)
        self.run_on(turns)

    @rule(emission=durables | transients, turns=turns)
    def broadcast(self, emission: dict[str, Any], turns: int) -> None:
        self.world.emit([emission], broadcast=True)
        self.run_on(turns)

    @rule(
        user=users,
        sizes=st.lists(st.sampled_from([15_000, 30_000, 60_000]), min_size=1, max_size=4),
        conflate=st.sampled_from(["c", "d", None, None]),
        turns=turns,
    )
    def flood(self, user: str, sizes: list[int], conflate: str | None, turns: int) -> None:
        for size in sizes:
            item = {"userId": user, "type": "T", "durable": False, "second": 0}
            if conflate is not None:
                item["conflate"] = conflate
            self.world.emit([{**item, "payload": payload(size)}])
        self.run_on(turns)

    @rule(
        user=users,
        place=places,
        limit=st.sampled_from([800, 2000, 8000]),
        page_events=st.sampled_from([1, 2, 100]),
        flowing=st.sampled_from([True, True, False]),
        sse=st.booleans(),
        turns=turns,
    )
    def connect(self, user: str, place: Place, turns: int, **how: Any) -> None:
        self.world.connect(user, v2=True, place=place, **how)
        self.run_on(turns)

    @rule(
        user=users,
        count=st.integers(2, 5),
        flowing=st.sampled_from([True, True, False]),
        turns=turns,
    )
    def connect_several(self, user: str, count: int, flowing: bool, turns: int) -> None:  # noqa: FBT001 - given by name
        for number in range(count):
            self.world.connect(
                user,
                v2=True,
                place=Place(),
                limit=2000,
                page_events=2,
                flowing=flowing,
                sse=number % 2 == 1,
            )
        self.run_on(turns)

    @rule(
        user=users,
        place=st.one_of(st.just(Place()), st.builds(Place, st.just("instant"), seconds)),
        limit=st.sampled_from([800, 2000, 8000]),
        page_events=st.sampled_from([1, 2, 100]),
        flowing=st.sampled_from([True, True, False]),
        turns=turns,
    )
    def connect_v1(self, user: str, place: Place, turns: int, **how: Any) -> None:
        self.world.connect(user, v2=False, place=place, **how)
        self.run_on(turns)

    @precondition(lambda self: self.world.devices)
    @rule(number=numbers, turns=turns)
    def drop(self, number: int, turns: int) -> None:
        self.world.soon(self.device(number).drop)
        self.run_on(turns)

    @rule(user=users, turns=turns)
    def kick(self, user: str, turns: int) -> None:
        self.world.kick(user)
        self.run_on(turns)

    @precondition(lambda self: self.world.devices)
    @rule(number=numbers, flowing=st.booleans(), turns=turns)
    def let_it_flow_or_stop(self, number: int, flowing: bool, turns: int) -> None:  # noqa: FBT001 - given by name
        device = self.device(number)
        self.world.soon(lambda: device.outbox.flow(flowing=flowing))
        self.run_on(turns)

    @precondition(lambda self: self.world.devices)
    @rule(number=numbers, count=st.sampled_from([100, 500, 3000]), turns=turns)
    def drain_a_little(self, number: int, count: int, turns: int) -> None:
        device = self.device(number)
        self.world.soon(lambda: device.outbox.drain(count))
        self.run_on(turns)

    @rule(count=st.sampled_from([1, 2, 5, 1000]), between=st.booleans(), turns=turns)
    def prune_all(self, count: int, between: bool, turns: int) -> None:  # noqa: FBT001 - given by name
        self.world.prune_all(count, between=between)
        self.run_on(turns)

    @rule(user=users, turns=turns)
    def erase(self, user: str, turns: int) -> None:
        self.world.erase(user)
        self.run_on(turns)

    @rule(turns=st.integers(1, 8), patient=st.booleans())
    def let_time_pass(self, turns: int, patient: bool) -> None:  # noqa: FBT001 - given by name
        self.run_on(turns, patient=patient)

    @rule()
    def come_to_rest(self) -> None:
        self.world.settle()

    def device(self, number: int) -> Any:
        """Return one of the devices; the newest ones are the likelier ones."""
        return self.world.devices[-1 - number % len(self.world.devices)]


class InFiles(Promises):
    """The same with a log in a file, of which anything may be pruned at any time."""

    def keeping(self, data: st.DataObject) -> Keeping:  # noqa: ARG002 - nothing is left to choose
        self.folder = tempfile.TemporaryDirectory()
        return InFile(Path(self.folder.name) / "events.db")

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.folder.cleanup()

    @rule(owner=users | st.none(), count=st.sampled_from([1, 1, 2, 5, 1000]), turns=turns)
    def prune(self, owner: str | None, count: int, turns: int) -> None:
        self.world.prune(owner, count)
        self.run_on(turns)


class InStreams(Promises):
    """The same with a log in a stream, which keeps so many events of each user or all."""

    url = ""
    numbers = itertools.count()

    def keeping(self, data: st.DataObject) -> Keeping:
        cap = data.draw(st.sampled_from([0, 2, 5]), label="cap")
        return InStream(self.url, f"W{next(self.numbers)}", cap=cap)

    def prepare(self, data: st.DataObject) -> None:
        # Behind somebody else's event that is left, no loss is told by chance.
        if data.draw(st.booleans(), label="somebody else's event in front"):
            self.world.emit([{**EVENT, "userId": "eve"}])
            self.run_on(3)


class WideRaces(Promises):
    """The same with gates around every call to the log."""

    patient = True
    gates = st.sampled_from(
        [
            frozenset({"before page"}),
            frozenset({"after page", "before first", "after first"}),
            frozenset({"after append"}),
            frozenset({"after append", "before page", "after page"}),
            frozenset({"before append", "before page", "after page", "after first"}),
        ]
    )

    @rule(numbers=st.lists(numbers, min_size=1, max_size=4), turns=st.sampled_from([0, 1, 1, 2, 3]))
    def let_calls_through(self, numbers: list[int], turns: int) -> None:
        for number in numbers:
            self.world.soon(lambda number=number: self.world.release(number))  # type: ignore[misc]  # its default binds this number
            self.run_on(turns)
        self.run_on(1)

    @rule(turns=turns)
    def fail_the_next_commit(self, turns: int) -> None:
        self.world.failing += 1
        self.run_on(turns)


class WideRacesInFiles(WideRaces, InFiles):
    """Gates around every call to a log in a file."""


class WideRacesInStreams(WideRaces, InStreams):
    """Gates around every call to a log in a stream."""


def try_out(machine: type[Promises], patch: pytest.MonkeyPatch, examples: int) -> None:
    tighten(patch)
    run_state_machine_as_test(
        machine,
        settings=settings(
            deadline=None,
            derandomize="CI" in os.environ,
            max_examples=round(examples * EFFORT),
            stateful_step_count=40,
            # Each example opens a log and many draw much: what is slow here is meant to be.
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_the_promises_hold_whatever_happens_in_whatever_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try_out(InFiles, monkeypatch, 600)


@pytest.mark.long
def test_the_promises_hold_where_every_call_to_the_log_may_take_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try_out(WideRacesInFiles, monkeypatch, 600)


@pytest.mark.long
@pytest.mark.parametrize("machine", [InStreams, WideRacesInStreams])
def test_the_promises_hold_over_jetstream_as_well(
    monkeypatch: pytest.MonkeyPatch, shared_nats: NatsServer, machine: type[InStreams]
) -> None:
    patient(monkeypatch)
    monkeypatch.setattr(InStreams, "url", shared_nats.url)
    try_out(machine, monkeypatch, 100)


# What the machines found, step by step.

EVENT = {"userId": "ann", "type": "D", "durable": True, "second": 0}
LARGE = {"userId": "ann", "type": "T", "durable": False, "second": 0, "payload": payload(60_000)}
# By a cursor it would be live at once: the hub knows that there was nothing after it.
RESUMING: dict[str, Any] = {
    "v2": True,
    "place": Place("earliest"),
    "limit": 2000,
    "page_events": 10,
    "flowing": True,
}


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch, *gates: str, total: int = 0) -> Iterator[World]:
    """Make a world with these gates for the length of a block; all is checked at its end."""
    tighten(patch)
    made = World(InFile(folder / "events.db"), recent=100_000, total=total, gates=frozenset(gates))
    try:
        yield made
        made.settle()
    finally:
        made.close()


def test_an_event_deleted_while_a_page_is_read_either_comes_or_is_told_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "before page") as steps:
        steps.connect("ann", **RESUMING)
        steps.turns(5, patient=True)
        steps.emit([EVENT])
        steps.turns(10, patient=True)
        steps.prune("ann", 1)
        steps.turns(5, patient=True)
    told = [seen.message["type"] for seen in steps.devices[0].seen]
    assert told == ["rt.welcome", "rt.gap", "rt.live"]


def test_an_event_told_as_lost_is_not_handed_over_by_a_dispatch_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "before page", "after append") as steps:
        for _ in range(20):
            steps.connect("ann", **{**RESUMING, "place": Place()})
        steps.connect("ann", **RESUMING)
        steps.turns(3, patient=True)
        steps.emit([EVENT])
        steps.turns(3, patient=True)
        steps.prune("ann", 1)
        steps.turns(3, patient=True)
        # The commit's gate is the second; then the page's, once for each time it is read.
        for gate in (1, 0, 0):
            steps.soon(lambda gate=gate: steps.release(gate))  # type: ignore[misc]  # its default binds this gate
            steps.turns(4, patient=True)
        last = steps.devices[-1]
        assert last.session is not None
        assert last.session.live
        assert not steps.devices[-2].indexes, "the dispatch was over too soon"
    assert [seen.message["type"] for seen in last.seen] == ["rt.welcome", "rt.gap", "rt.live"]


def test_what_is_deleted_before_it_is_dispatched_is_not_read_again_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "after append") as steps:
        read, pages = steps.log.page, list[Page]()

        async def counted(*args: Any, **options: Any) -> Page:
            pages.append(await read(*args, **options))
            return pages[-1]

        monkeypatch.setattr(steps.log, "page", counted)
        steps.emit([EVENT])
        steps.turns(5, patient=True)
        steps.prune("ann", 1)
        steps.turns(5, patient=True)
        steps.connect("ann", **RESUMING)
        steps.turns(50, patient=True)
        assert [page.lost for page in pages] == [1]
        assert steps.hub.dispatched == 0
    assert len(pages) == 2
    told = [seen.message["type"] for seen in steps.devices[0].seen]
    assert told == ["rt.welcome", "rt.gap", "rt.live"]


def test_who_was_away_for_a_moment_is_live_without_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "before page") as steps:
        steps.emit([EVENT, EVENT])
        steps.turns(10, patient=True)
        for number in (0, 30):
            # Before both of them, and a little ahead: that is none of these.
            steps.connect("ann", **{**RESUMING, "place": Place("seq", number)})
        steps.connect("bob", **{**RESUMING, "place": Place("seq", 0)})
        steps.turns(1, patient=True)
        live = [each.session.live for each in steps.devices if each.session is not None]
        assert live == [True, False, True]
    told = [[seen.message["type"] for seen in each.seen] for each in steps.devices]
    assert told[0] == ["rt.welcome", "D", "D", "rt.live"]
    assert told[2] == ["rt.welcome", "rt.live"]


def test_what_was_dropped_for_a_device_that_went_while_it_was_behind_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "before page") as steps:
        steps.connect("ann", **RESUMING)
        steps.turns(3, patient=True)
        steps.emit([LARGE, LARGE])
        steps.turns(5, patient=True)
        steps.soon(steps.devices[0].drop)
    assert steps.hub.dropped == 1


def stop_all(steps: World) -> None:
    """Let all devices stop reading, once their welcomes have gone."""
    for device in steps.devices:
        steps.soon(lambda device=device: device.outbox.flow(flowing=False))  # type: ignore[misc]  # its default binds this device
    steps.turns(1, patient=True)
    assert not any(device.outbox.size for device in steps.devices)


def test_a_session_does_not_turn_live_with_more_than_the_memory_it_was_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "after page", total=3000) as steps:
        steps.connect("ann", **RESUMING)
        steps.turns(5, patient=True)
        stop_all(steps)
        # Dispatched after its page was read, and at hand.
        for _ in range(6):
            steps.emit([{**EVENT, "payload": payload(700)}])
            steps.turns(5, patient=True)
        steps.soon(lambda: steps.release(0))
        steps.turns(5, patient=True)
        assert len(steps.devices[0].indexes) == 0


def test_pages_that_are_under_way_at_once_are_within_the_total_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, monkeypatch, "before page", total=3000) as steps:
        for _ in range(3):
            steps.emit([{**EVENT, "payload": payload(700)}])
        steps.turns(10, patient=True)
        for _ in range(6):
            steps.connect("ann", **RESUMING)
        steps.turns(5, patient=True)
        stop_all(steps)
        for _ in range(6):
            steps.soon(lambda: steps.release(0))
            steps.turns(5, patient=True)
        assert any(device.indexes for device in steps.devices)
