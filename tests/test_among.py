"""Dispatching on one of several servers: ``among``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from archibald_rt.among import AmongPeers, Turns
from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.nats.opening import open_nats
from archibald_rt.events import Emission
from archibald_rt.hub import Hub
from engines import emission, numbered
from natsservers import NatsServer, nats_server
from support import eventually


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.mark.gen_test
async def test_what_was_dispatched_is_not_dispatched_again(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        hub = Hub(3, recent=1000)
        among = AmongPeers(log.peers, hub)
        await log.append([numbered(["u"] * 2)])
        await eventually(lambda: log.head == 2)
        await among.catch_up(lambda: False)
        assert hub.dispatched == 3
        await log.append([numbered(["u"] * 2)])
        await eventually(lambda: log.head == 4)
        await among.catch_up(lambda: False)
        assert hub.dispatched == 4
        events = hub.since("u", 3)
        assert events is not None
        assert [event.seq for event in events] == [4]


@pytest.mark.gen_test
async def test_an_own_event_goes_behind_all_that_was_committed_before_it(
    server: NatsServer, tmp_path: Path
) -> None:
    async with (
        open_nats([server.url], tmp_path.name) as here,
        open_nats([server.url], tmp_path.name) as there,
    ):
        hub = Hub(0, recent=10_000)
        among = AmongPeers(here.peers, hub)
        await there.append([numbered(["u", "v", "u"])])
        own = emission("u", "9")
        ((stored,),) = await here.append([[own]])  # type: ignore[misc]  # no key, so no conflict
        assert await among.dispatch(own, stored.seq) == 0
        assert hub.dispatched == stored.seq == 4
        events = hub.since("u", 0)
        assert events is not None
        assert [event.seq for event in events] == [1, 3, 4]
        assert not among.waiting


@pytest.mark.gen_test
async def test_a_transient_event_is_dropped_where_a_later_durable_one_went_out(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        hub = CountingHub(0, recent=10_000)
        among = AmongPeers(log.peers, hub)
        await log.append([numbered(["u", "v"])])
        await eventually(lambda: log.head == 2)
        await among.catch_up(lambda: False)
        for user in ("u", "v", "w", None):
            tail = emission(user).tail
            log.peers.defer(Emission(user, tail, "", 0, durable=False), 1)
        await among.catch_up(lambda: False)
        # Only v has had an event above 1.
        assert hub.transient == ["u", "w", None]


@pytest.mark.gen_test
async def test_a_transient_event_keeps_its_place_behind_one_that_was_deleted_before_it_arrived(
    server: NatsServer, tmp_path: Path
) -> None:
    few = Retention(max_events_per_user=1)
    async with open_nats([server.url], tmp_path.name, retention=few) as log:
        hub = CountingHub(0, recent=10_000)
        among = AmongPeers(log.peers, hub)
        first = numbered(["u"] * 3)
        # Only the last two are kept, so the first is gone with the commit.
        await log.append([first])
        await eventually(lambda: log.head == 3)
        await among.dispatch(first[0], 1)
        await among.dispatch(Emission("u", emission().tail, "", 0, durable=False), None)
        assert hub.transient == ["u"]
        assert hub.dispatched < 2


@pytest.mark.gen_test
async def test_whoever_emits_here_waits_for_no_more_than_one_event_of_others(
    server: NatsServer, tmp_path: Path
) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        hub, busy, closing = Hub(0, recent=1000), [True], [False]
        among = AmongPeers(log.peers, hub)
        turns = Turns(among, busy=lambda: busy[0], closing=lambda: closing[0])
        assert not turns
        await log.append([numbered(["u"] * 5)])
        await eventually(lambda: log.head == 5)
        assert turns
        await turns.take()
        await turns.take()
        assert hub.dispatched == 2
        busy[0] = False
        await turns.take()
        assert hub.dispatched == 5
        assert not turns


@pytest.mark.gen_test
async def test_at_the_end_only_steps_have_their_turn(server: NatsServer, tmp_path: Path) -> None:
    async with open_nats([server.url], tmp_path.name) as log:
        hub = Hub(0, recent=1000)
        turns = Turns(AmongPeers(log.peers, hub), busy=lambda: False, closing=lambda: True)
        await log.append([numbered(["u"] * 5)])
        await eventually(lambda: log.head == 5)
        assert not turns

        async def step() -> int:
            return 7

        done = turns.add(step)
        assert turns
        await turns.take()
        assert await done == 7
        assert not turns
        # One is dispatched before it is looked whether it goes on.
        assert hub.dispatched == 1


@pytest.mark.gen_test
async def test_whose_event_was_deleted_before_it_arrived_is_behind_when_that_is_answered(
    server: NatsServer, tmp_path: Path
) -> None:
    few = Retention(max_events_per_user=1)
    async with open_nats([server.url], tmp_path.name, retention=few) as log:
        hub = Hub(0, recent=10_000)
        among = AmongPeers(log.peers, hub)
        events = numbered(["u"] * 4)
        # Two requests in one commit; of the first nothing is left.
        await log.append([events[:2], events[2:]])
        await eventually(lambda: log.head == 4)
        await among.dispatch(events[0], 1)
        # From then on who was live reads it from the log; what goes behind it has its place still.
        assert hub.dispatched == 1
        await among.dispatch(events[1], 2)
        assert hub.dispatched == 2
        await among.catch_up(lambda: False)
        assert hub.dispatched == 4
        assert not log.peers.waiting


class CountingHub(Hub):
    """A hub that tells who was to get transient events."""

    def __init__(self, head: int, *, recent: int) -> None:
        super().__init__(head, recent=recent)
        self.transient: list[str | None] = []

    async def dispatch(self, emission: Emission, seq: int | None) -> int:
        if seq is None:
            self.transient.append(emission.user)
        return await super().dispatch(emission, seq)
