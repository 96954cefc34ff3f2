"""The table of what is measured: which work with which parameters, on which peers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALL = ("ours", "ws", "socketio", "nchan", "tornado")
WITH_FLOOR = (*ALL, "raw")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One work with its parameters."""

    key: str
    """Names it in files and targets."""

    group: str
    """What `--works` calls it, with others of its kind."""

    title: str
    work: str
    """The name in `benchmarks.works.registry`."""

    main: str
    """The figure that peers are compared by."""

    peers: tuple[str, ...] = ALL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    """What `--quick` has other parameters for."""

    kept: int = 200
    """How many events of a user servers with a buffer in memory hold."""

    fresh: bool = False
    """Whether each round is on a server started for it."""

    restart: bool = False
    """Whether that is started again between preparing and the round."""

    by_rows: bool = False
    """Whether each version of ours is measured on logs of several sizes; the work takes `rows`."""

    most_rounds: int = 1000
    """More would take too long for what they would add."""


def _fan_out(devices: int, shots: int, *, durable: bool = True) -> Case:
    kind = "durable" if durable else "transient"
    return Case(
        key=f"fan-out-{kind}-{devices}",
        group="fan-out",
        title=f"fan-out to {devices:,} devices, one {kind} event at a time",
        work="fan-out",
        main="CPU µs/delivery",
        peers=WITH_FLOOR,
        parameters={"devices": devices, "shots": shots, "durable": durable},
        quick={"shots": max(2, shots // 10)},
    )


CASES: tuple[Case, ...] = (
    _fan_out(1, 1000),
    _fan_out(10, 500),
    _fan_out(500, 100),
    _fan_out(5000, 15),
    _fan_out(1, 1000, durable=False),
    _fan_out(10, 500, durable=False),
    _fan_out(500, 100, durable=False),
    _fan_out(5000, 15, durable=False),
    Case(
        key="burst",
        group="burst",
        title="200 durable events in one request to 100 devices",
        work="fan-out",
        main="CPU µs/delivery",
        parameters={"devices": 100, "burst": 200, "shots": 10},
        quick={"shots": 2},
    ),
    Case(
        key="users-5000",
        group="users",
        title="one durable event each to 5,000 users, in one request",
        work="fan-out",
        main="CPU µs/delivery",
        parameters={"devices": 1, "users": 5000, "shots": 5},
        quick={"shots": 1},
    ),
    Case(
        key="connect",
        group="connect",
        title="connecting, token checked, nothing to replay",
        work="connect",
        main="CPU µs/connect",
        parameters={"devices": 1000},
        quick={"devices": 200},
    ),
    Case(
        key="connect-backlog",
        group="connect",
        title="connecting with ten events to replay",
        work="connect",
        main="CPU µs/connect",
        peers=("ours", "ws", "nchan", "tornado"),
        parameters={"devices": 1000, "backlog": 10},
        quick={"devices": 200},
    ),
    Case(
        key="replay-1",
        group="replay",
        title="replay of 1 event to each of 500 devices",
        work="connect",
        main="CPU µs/event",
        peers=("ours", "ws", "nchan", "tornado"),
        parameters={"devices": 500, "backlog": 1, "users": 1},
        quick={"devices": 100},
    ),
    Case(
        key="replay-500",
        group="replay",
        title="replay of 500 events to each of 100 devices, connecting included",
        work="connect",
        main="CPU µs/event",
        peers=("ours", "ws", "nchan", "tornado"),
        parameters={"devices": 100, "backlog": 500, "users": 1},
        kept=500,
    ),
    Case(
        key="replay-100000",
        group="replay",
        title="replay of 100,000 events to each of 2 devices",
        work="connect",
        main="CPU µs/event",
        peers=("ours", "ws", "nchan", "tornado"),
        parameters={"devices": 2, "backlog": 100_000, "users": 1},
        quick={"devices": 1, "backlog": 20_000},
        kept=100_000,
        most_rounds=5,
    ),
    Case(
        key="emit",
        group="emit",
        title="one durable event an HTTP request, 32 emitters",
        work="emit",
        main="CPU µs/event",
        parameters={"requests": 5000},
        quick={"requests": 1000},
    ),
    Case(
        key="emit-batch",
        group="emit",
        title="batches of 1,000 durable events, 4 emitters",
        work="emit",
        main="CPU µs/event",
        parameters={"requests": 40, "batch": 1000, "emitters": 4},
        quick={"requests": 8},
    ),
    *(
        Case(
            key=f"memory-{devices}",
            group="memory",
            title=f"{devices:,} idle connections",
            work="memory",
            main="PSS KiB/connection",
            parameters={"devices": devices, "seconds": 10.0},
            quick={"seconds": 2.0},
            fresh=True,
            most_rounds=3,
        )
        for devices in (1000, 8000)
    ),
    Case(
        key="memory-most",
        group="memory-most",
        title="as many idle connections as descriptors and ports allow",
        work="memory",
        main="PSS KiB/connection",
        parameters={"devices": 0, "seconds": 10.0},
        quick={"seconds": 2.0},
        fresh=True,
        most_rounds=1,
    ),
    Case(
        key="emitter",
        group="emitter",
        title="64 concurrent callers of the Python emitter; ws: of plain HTTP",
        work="callers",
        main="CPU µs/event",
        peers=("ours", "ws"),
        parameters={"callers": 64, "events": 10_000},
        quick={"events": 2000},
    ),
    *(
        Case(
            key=f"latency-{rate}",
            group="latency",
            title=f"latency at {rate:,} durable events/s"
            + (f", {batch} a request" if batch > 1 else ""),
            work="latency",
            main="p50 ms",
            parameters={"rate": rate, "seconds": 10.0, "batch": batch},
            quick={"seconds": 2.0},
            most_rounds=5,
        )
        # One request an event is more than one process can answer at the last rate.
        for rate, batch in ((100, 1), (1000, 1), (5000, 10))
    ),
    Case(
        key="storm",
        group="storm",
        title="5,000 devices come back at once after a restart, ten events missed",
        work="storm",
        main="CPU µs/connect",
        peers=("ours", "ws", "nchan", "tornado"),
        parameters={"devices": 5000, "backlog": 10},
        quick={"devices": 1000, "users": 100},
        fresh=True,
        restart=True,
        most_rounds=3,
    ),
    *(
        Case(
            key=f"growth-{name}",
            group="growth",
            title=title,
            work="growth",
            main="CPU µs/resume",
            peers=("ours",),
            parameters={"devices": 300, "events": events},
            quick={"devices": 100},
            by_rows=True,
        )
        for name, title, events in (
            ("attach", "resuming with nothing missed, as the log grows", 0),
            ("page", "resuming with 100 events missed, as the log grows", 100),
        )
    ),
)

GROUPS: tuple[str, ...] = tuple(dict.fromkeys(case.group for case in CASES))
