"""The tables of docs/scale-out.md, as Markdown, made of what was measured. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from benchmarks.report import number
from benchmarks.scale.costs import Costs
from benchmarks.scale.simulation import PROFILES, Plan, most_users, plan

USERS = (10**4, 10**5, 10**6, 10**7)
"""For how many connected users it is reckoned."""

_NODE = {
    "take_durable": "a durable event emitted there, one a request, its commit and arrival",
    "take_transient": "a transient event emitted there, one a request",
    "see_durable": "a durable event of another server, for none of its devices",
    "see_transient": "a transient event of another server, for none of its devices",
    "deliver_durable": "handing a durable event to a device",
    "deliver_transient": "handing a transient event to a device",
    "connect": "a connect, token checked, nothing missed",
    "replay_recent": "a missed event that the server has at hand",
    "replay_old": "a missed event read from the stream, ten a device",
    "idle": "an idle server, a second",
    "idle_device": "an idle device, a second",
}
_ENGINE = {
    "store": ("CPU of a durable event alone in its publish, its sync included", "µs"),
    "send_durable": ("CPU of sending it to one server", "µs"),
    "accept": ("CPU of a transient event", "µs"),
    "send_transient": ("CPU of sending it to one server", "µs"),
    "bytes_in": ("a durable event on its way in", "B"),
    "bytes_out": ("a durable event on its way to each server", "B"),
    "transient_bytes": ("a transient event, each way", "B"),
    "bytes_routed": ("a durable event on its way to the other replicas", "B"),
    "bytes_routed_each": ("and between NATS servers besides, for each server that follows", "B"),
    "disk": ("disk of a durable event", "B"),
    "user_memory": ("memory of a user who has events", "B"),
    "subscription_memory": ("memory of a subscription of a user, if there were one", "B"),
    "subscription_at_client": ("and at the server process that has it", "B"),
    "most": ("durable events a second at most, in batches", ""),
}


def tables(costs: Costs, users: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables by the name they have in the page."""
    return {
        "users": users_table(users["contenders"]),
        "server costs": node_table(costs),
        "engine costs": engine_table(costs),
        "reckoned": plans_table(costs),
        "wall": wall_table(costs),
    }


def filled(page: str, made: Mapping[str, str]) -> str:
    """Return a page with each table between its marks. Raises `ValueError` without these."""
    for name, text in made.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no {begin.strip()} with {end} after it")
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


def users_table(contenders: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Compare what the NATS server uses as users come."""
    rows = []
    for name, steps in contenders.items():
        for step in steps:
            cells = (
                name,
                f"{step['users']:,.0f}",
                f"{step['consumers']:,.0f}",
                f"{step['subscriptions']:,.0f}",
                number(step["NATS memory MiB"]),
                number(step["NATS CPU % of a core"]),
            )
            rows.append(cells)
    head = ("", "users", "consumers", "subscriptions", "memory, MiB", "CPU, % of a core")
    return _table(head, rows)


def node_table(costs: Costs) -> str:
    """Say what a server process uses."""
    rows = [
        (about, f"{number(getattr(costs.node, name) * 1e6)} µs") for name, about in _NODE.items()
    ]
    rows.append(("memory of an idle device", f"{number(costs.node.device_memory / 1024)} KiB"))
    rows.append(("memory without devices", f"{number(costs.node.base_memory / 2**20)} MiB"))
    return _table(("a server process", "CPU"), rows)


def engine_table(costs: Costs) -> str:
    """Say what the NATS servers use."""
    rows = []
    for name, (about, unit) in _ENGINE.items():
        scale = 1e6 if unit == "µs" else 1
        values = (getattr(each, name) * scale for each in (costs.single, costs.clustered))
        rows.append((about, *(f"{number(value)} {unit}".rstrip() for value in values)))
    head = ("the NATS servers together; disk and memory of each", "one", "three, three replicas")
    return _table(head, rows)


def plans_table(costs: Costs) -> str:
    """Say what users need: without partitions while that is enough, and with them."""
    rows = []
    for profile in PROFILES:
        for users in USERS:
            whole = plan(users, profile, costs)
            parted = plan(users, profile, costs, partitions=64)
            events = f"{number(users * profile.durable)} + {number(users * profile.transient)}"
            rows.append((profile.name, f"{users:,}", events, *_cells(whole, parted)))
    head = (
        *("profile", "users", "durable + transient events/s", "servers", "servers in groups"),
        *("of a core for others' events", "memory of one, MiB", "NATS to one, MB/s"),
        *("streams", "NATS cores", "memory of a replica, GB", "disk of a replica, GB"),
    )
    return _table(head, rows)


def _cells(whole: Plan | None, parted: Plan | None) -> Iterable[str]:
    known = whole or parted
    if known is None:
        return ["not possible"] * 2 + ["–"] * 7
    groups = "–" if parted is None else f"{parted.servers:,} in {parted.groups}"
    if whole is not None and (parted is None or whole.servers <= parted.servers):
        groups = "no need"
    return (
        "not possible" if whole is None else f"{whole.servers:,}",
        groups,
        f"{known.foreign * 100:.1f} %",
        number(known.memory / 2**20),
        number(known.traffic / 1e6),
        f"{known.streams}",
        number(known.engine_cores),
        number(known.engine_memory / 1e9),
        number(known.disk / 1e9),
    )


def wall_table(costs: Costs) -> str:
    """Say up to how many users every server can see everything, or all that is durable."""
    node = msgspec.structs.replace(costs.node, see_transient=0.0)
    sent_where_needed = msgspec.structs.replace(costs, node=node)
    rows = [
        (
            each.name,
            f"{number(each.durable * 3600)} + {number(each.transient * 3600)}",
            f"{number(each.devices)}",
            f"{most_users(each, costs):,}",
            f"{most_users(each, sent_where_needed):,}",
        )
        for each in PROFILES
    ]
    head = (
        *("profile", "durable + transient events of a user an hour", "devices", "users at most"),
        "if transient ones went only where their user is",
    )
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
