"""The benchmark of several servers on a stream: its parts that reckon, and a short run of it."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load.dialects import Emission
from benchmarks.scale import costs as costs_module
from benchmarks.scale import pictures, tables, units
from benchmarks.scale.costs import Costs, EngineCosts, NodeCosts, dump, line, medians
from benchmarks.scale.simulation import PROFILES, Limits, Profile, most_users, plan
from benchmarks.works.traffic import Traffic

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "scale"
PATIENCE = 300.0
"""How many seconds a run may take that starts a dozen processes one after the other."""

NODE = NodeCosts(
    take_durable=100e-6,
    take_transient=50e-6,
    see_durable=20e-6,
    see_transient=10e-6,
    deliver_durable=10e-6,
    deliver_transient=5e-6,
    connect=200e-6,
    replay_recent=10e-6,
    replay_old=100e-6,
    idle=0.0,
    idle_device=0.0,
    base_memory=50e6,
    device_memory=2000.0,
)
ENGINE = EngineCosts(
    replicas=3,
    store=100e-6,
    send_durable=10e-6,
    accept=10e-6,
    send_transient=5e-6,
    bytes_in=300.0,
    bytes_out=300.0,
    transient_bytes=200.0,
    bytes_routed=600.0,
    bytes_routed_each=0.0,
    base_memory=10e6,
    user_memory=1000.0,
    subscription_memory=500.0,
    subscription_at_client=5000.0,
    disk=350.0,
    most=10_000.0,
)
COSTS = Costs(measured={}, node=NODE, single=ENGINE, clustered=ENGINE)
ONE_EVENT = Profile(
    "one event a second",
    devices=1,
    durable=1,
    transient=0,
    connects=0,
    missed=0,
    known=1,
    retained=10,
)
numbers = st.floats(0, 1e-3)


def test_each_server_sees_all_events_and_the_rest_is_shared_out() -> None:
    made = plan(10_000, ONE_EVENT, COSTS)
    assert made is not None
    # All events of the others' users take 0.2 of a core of each. What is left of the 0.6 has to
    # hold 110 µs an event, but for the 20 in it that this server has seen then: 0.9 s a second.
    assert made.servers == 3
    assert made.core == pytest.approx(0.2 + 0.9 / 3)
    assert made.foreign == pytest.approx(0.2 * 2 / 3)
    assert made.traffic == pytest.approx(10_000 * 300)
    assert made.memory == pytest.approx(50e6 + 10_000 / 3 * 2000)
    assert made.engine_cores == pytest.approx(10_000 * (100e-6 + 3 * 10e-6))
    assert made.engine_memory == pytest.approx(10e6 + 10_000 * 1000)
    assert made.disk == pytest.approx(10_000 * 10 * 350)
    # A stream is asked for 0.6 of what it took at most.
    assert made.streams == 2


def test_no_number_of_servers_is_enough_where_each_sees_too_much() -> None:
    most = most_users(ONE_EVENT, COSTS)
    # 0.6 of a core at 20 µs an event.
    assert most == 29_900
    assert plan(most, ONE_EVENT, COSTS) is not None
    assert plan(30_000, ONE_EVENT, COSTS) is None
    in_groups = plan(30_000, ONE_EVENT, COSTS, partitions=64)
    assert in_groups is not None
    assert in_groups.groups > 1
    assert in_groups.traffic == pytest.approx(30_000 * 300 / in_groups.groups)


def test_what_costs_nothing_has_no_wall() -> None:
    still = msgspec.structs.replace(NODE, see_durable=0.0, see_transient=0.0)
    costs = msgspec.structs.replace(COSTS, node=still)
    assert most_users(ONE_EVENT, costs) > 10**12


@settings(deadline=None)
@given(st.integers(1, 10**7), st.sampled_from(PROFILES), numbers, numbers, numbers)
def test_a_plan_keeps_to_the_limits_and_groups_never_need_more_servers(
    users: int, profile: Profile, take: float, see: float, idle: float
) -> None:
    node = msgspec.structs.replace(NODE, take_durable=take + see, see_durable=see, idle=idle)
    costs, limits = msgspec.structs.replace(COSTS, node=node), Limits()
    whole = plan(users, profile, costs, limits)
    parted = plan(users, profile, costs, limits, partitions=64)
    for made in (whole, parted):
        if made is not None:
            assert made.core <= limits.core * (1 + 1e-9)
            assert users * profile.devices / made.servers <= limits.devices
            assert 0 <= made.foreign <= made.core * (1 + 1e-9)
            assert made.servers >= 2 * made.groups
    if whole is not None:
        assert parted is not None
        assert parted.servers <= whole.servers
        more = plan(2 * users, profile, costs, limits)
        assert more is None or more.servers >= whole.servers


def test_a_line_goes_through_its_points_and_neither_part_is_negative() -> None:
    assert line({2: 7.0, 4: 11.0}) == pytest.approx((3.0, 2.0))
    # Noise: more servers that cost less, and none that would give something back.
    assert line({2: 7.0, 4: 5.0}) == pytest.approx((6.0, 0.0))
    assert line({2: 1.0, 4: 5.0}) == pytest.approx((0.0, 1.1))


def test_medians_are_of_each_figure_by_itself() -> None:
    rounds = [{"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 5.0}, {"a": 2.0, "b": 7.0}]
    assert medians(rounds) == {"a": 2.0, "b": 7.0}


def test_figures_are_kept_with_four_digits_and_read_again() -> None:
    long = msgspec.structs.replace(NODE, connect=0.000123456)
    read = costs_module.load(dump(msgspec.structs.replace(COSTS, node=long)))
    assert read.node.connect == 0.0001235
    assert msgspec.structs.replace(read, node=NODE) == COSTS
    with pytest.raises(msgspec.ValidationError):
        costs_module.load(b'{"measured": {}}')


def test_places_emit_for_all_users_and_it_is_known_what_each_is_owed() -> None:
    traffic = Traffic(users=40, places=2, rate=40, seconds=1, transient=2)
    assert (traffic.count, traffic.events) == (20, 60)
    assert sorted([*traffic.of(0), *traffic.of(1)]) == list(range(40))
    assert traffic.owed({3, 4, 99}.__contains__) == 2
    # Twice as long, each user has two.
    longer = Traffic(users=40, places=2, rate=40, seconds=2)
    assert longer.owed({3, 4}.__contains__) == 4


@pytest.mark.gen_test
async def test_what_is_transient_is_emitted_when_the_durable_event_before_it_was_answered() -> None:
    traffic = Traffic(users=40, places=2, rate=1000, seconds=0.006, transient=2)
    done: dict[str, list[str]] = {}

    async def emit(emission: Emission) -> None:
        done.setdefault(emission.user, []).append(emission.type)
        await asyncio.sleep(0)
        done[emission.user].append("answered")

    took = await traffic.pace(1, emit)
    assert len(took) == 3
    assert list(done) == [f"user-{user}" for user in traffic.of(1)]
    once = ["JOB_COMPLETED", "answered", *["JOB_PROGRESS", "answered"] * 2]
    assert list(done.values()) == [once] * 3


def kept() -> tuple[Costs, dict[str, Any]]:
    """Return the figures that the page is made of."""
    costs = costs_module.load((KEPT / "costs.json").read_bytes())
    return costs, json.loads((KEPT / "users.json").read_text())


def test_the_page_has_the_tables_that_follow_from_the_kept_figures() -> None:
    page = (ROOT / "docs" / "scale-out.md").read_text()
    assert tables.filled(page, tables.tables(*kept())) == page


def test_a_page_without_the_marks_of_a_table_is_told() -> None:
    made = {"users": "| a table |"}
    page = "before\n<!-- users -->\nold\n<!-- /users -->\nafter\n"
    filled = "before\n<!-- users -->\n| a table |\n<!-- /users -->\nafter\n"
    assert tables.filled(page, made) == filled
    for lacking in ("", "<!-- users -->\n", "<!-- /users -->\n"):
        with pytest.raises(ValueError, match="the page has no <!-- users -->"):
            tables.filled(lacking, made)


def test_the_page_shows_each_plot_that_is_drawn_and_no_other(tmp_path: Path) -> None:
    drawn = {path.name for path in pictures.draw(*kept(), tmp_path)}
    assert drawn == {path.name for path in (ROOT / "docs" / "scale-out").iterdir()}
    page = (ROOT / "docs" / "scale-out.md").read_text()
    assert all(f"](scale-out/{name})" in page for name in drawn)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


@pytest.mark.long
def test_consumers_at_the_nats_server_do_not_grow_with_users(tmp_path: Path) -> None:
    output = tmp_path / "users.json"
    options = ["--most", "40", "--rate", "40", "--seconds", "1", "--rounds", "1"]
    options += ["--transient", "0"]
    done = subprocess.run(
        [ROOT / "scripts" / "scale-out", "users", *options, "--output", output],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["measured"]["faults"] == []

    def figures(contender: str, name: str) -> list[float]:
        return [step[name] for step in found["contenders"][contender]]

    # One for each of 40 users would be 40; of its own a server has some, and may make them anew.
    for counted in ("consumers", "subscriptions"):
        seen = figures("archibald_rt", counted)
        assert max(seen) - min(seen) < 20, seen
    assert max(figures("archibald_rt", "consumers")) < 20
    assert figures("one consumer", "consumers") == [1.0] * 4
    assert figures("a consumer each", "consumers") == [0.0, 4.0, 20.0, 40.0]
    # Of 40 users each gets an event.
    assert figures("archibald_rt", "deliveries") == [0.0, 4.0, 20.0, 40.0]
    assert figures("a consumer each", "deliveries") == [0.0, 4.0, 20.0, 40.0]
    # No server's files are left.
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.long
def test_what_an_event_costs_is_measured_at_all_that_have_to_do_with_it(tmp_path: Path) -> None:
    effort = units.Effort(rounds=1, requests=20, devices=5, users=500, seconds=0.1)
    with units.stage(tmp_path, effort, replicas=3, nodes=2) as on:
        cost = on.emit()
    assert all(value > 0 for value in cost.values()), cost
    # To each of both servers goes at least what has come from one.
    assert cost["out"] >= 2 * 127
    assert cost["in"] >= 127
