"""What several servers come to: `sums`."""

from collections.abc import Iterator
from typing import Any

import msgspec

from archibald_rt.answers import Connections, ConnectionState, Stats
from archibald_rt.questions import AboutConnections
from archibald_rt.sums import all_connections, all_stats, node_of

OF_ONE = {"uptimeMs", "draining", "revoked.users", "revoked.tokens"} | {
    f"log.{name}" for name in ("epoch", "head", "dispatched", "bytes", "limit", "pruned", "fault")
}
"""What is of the server that was asked."""

EMPTY: dict[str, Any] = {
    "uptimeMs": 0,
    "draining": False,
    "connections": {
        **dict.fromkeys(("total", "live", "behind", "users", "resumed", "refused"), 0),
        "refusedFor": {"expired": 0},
    },
    "events": dict.fromkeys(("durable", "transient", "sent", "dropped", "averageLatencyMs"), 0),
    "revoked": {"users": 0, "tokens": 0},
    "limits": dict.fromkeys(("connects", "devices", "messages"), 0),
    "clientMessages": {"received": 0, "ignored": 0},
    "webhook": dict.fromkeys(("posted", "failed", "dropped"), 0),
    "outboxBytes": 0,
    "outboxTotal": {"bytes": 0, "limit": 0},
    "queueBytes": 0,
    "log": {
        "epoch": "e",
        **dict.fromkeys(("head", "dispatched", "bytes", "limit", "pruned", "erased"), 0),
        "fault": None,
    },
}


def numbered(value: Any, count: Iterator[int]) -> Any:
    """Give every number another one."""
    if isinstance(value, dict):
        return {name: numbered(each, count) for name, each in value.items()}
    return next(count) if isinstance(value, int) and not isinstance(value, bool) else value


def stats_from(first: int) -> Stats:
    """Return figures that are all different, counting from a number."""
    return msgspec.convert(numbered(EMPTY, iter(range(first, first + 100))), Stats)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def row(number: int, node: str, *, behind_by: int = 0, state: str = "live") -> ConnectionState:
    return msgspec.convert(
        {
            "connection": f"{number:016x}",
            "userId": f"u{number}",
            "transport": "websocket",
            "protocol": "v2",
            "address": None,
            "since": f"2026-01-01T00:00:{number:02}.000Z",
            "state": state,
            "position": 0,
            "behindBy": behind_by,
            "outboxBytes": 0,
            "sent": 0,
            "dropped": 0,
            "silentMs": None,
            "roundTripMs": None,
            "node": node,
        },
        ConnectionState,
    )


def test_every_figure_is_the_sum_of_all_but_what_is_of_the_one_that_was_asked() -> None:
    each = [stats_from(100), stats_from(1000), stats_from(5000)]
    own, *others = (node_of(stats, name) for stats, name in zip(each, "bca", strict=True))
    total = msgspec.to_builtins(all_stats(own, others, ["d"]))
    assert [node.pop("node") for node in total["nodes"]] == ["a", "b", "c"]
    assert (total.pop("missing"), len(total.pop("nodes"))) == (["d"], 3)
    average = total["events"].pop("averageLatencyMs")
    assert average == round(
        sum(stats.events.average_latency_ms * stats.events.durable for stats in each)
        / sum(stats.events.durable for stats in each),
        3,
    )
    parts = [dict(leaves(msgspec.to_builtins(stats))) for stats in each]
    for path, value in leaves(total):
        if path in OF_ONE:
            assert value == parts[0][path], path
        else:
            assert value == sum(part[path] for part in parts), path


def test_reasons_that_not_all_servers_know_and_bounds_that_not_all_have() -> None:
    own, other = stats_from(0), stats_from(0)
    other.connections.refused_for.clear()
    other.connections.refused_for["revoked"] = 7
    unbounded = msgspec.structs.replace(
        other, outbox_total=msgspec.structs.replace(other.outbox_total, limit=None)
    )
    total = all_stats(node_of(own, "a"), [node_of(unbounded, "b")], [])
    assert total.connections.refused_for["revoked"] == 7
    assert set(total.connections.refused_for) == {"expired", "revoked"}
    assert total.outbox_total.limit is None


def test_without_any_commit_there_is_no_latency() -> None:
    none = msgspec.convert(EMPTY, Stats)
    total = all_stats(node_of(none, "a"), [node_of(none, "b")], [])
    assert total.events.average_latency_ms == 0.0


def test_connections_are_in_the_order_that_was_asked_for_and_as_many_as_fit() -> None:
    here = Connections([row(1, "a"), row(4, "a", behind_by=9, state="behind")], 7)
    there = Connections([row(2, "b", behind_by=30, state="behind"), row(3, "b")], 2)

    def users(about: AboutConnections) -> list[str]:
        merged = all_connections(about, [here, there], ["c"])
        assert (merged.total, merged.missing) == (9, ["c"])
        return [each.user_id for each in merged.connections]

    assert users(AboutConnections(10)) == ["u1", "u4", "u2", "u3"]
    assert users(AboutConnections(3, order="oldest")) == ["u1", "u2", "u3"]
    assert users(AboutConnections(2, order="newest")) == ["u4", "u3"]
    assert users(AboutConnections(2, order="slow")) == ["u2", "u4"]
