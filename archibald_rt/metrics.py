"""What is counted, as Prometheus names it.

Nothing is counted here: at a scrape this reads what the parts have counted anyway, so that a
metric costs nothing where events go through. Labels have few values, known beforehand: never a
user, a type of event or an address. A bound that is off has no metric.
"""

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import get_args

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from archibald_rt import __version__
from archibald_rt.census import Census
from archibald_rt.errors import CloseCode, Refusal
from archibald_rt.eventlog import Retention
from archibald_rt.eventlog.peers import Peers
from archibald_rt.hub import Hub
from archibald_rt.looplag import LoopLag
from archibald_rt.measures import Histogram
from archibald_rt.messages import DialectName, GapReason
from archibald_rt.order import OrderQueue
from archibald_rt.reception import Reception
from archibald_rt.requestlog import RequestLog
from archibald_rt.upkeep import Upkeep
from archibald_rt.websocket import ABNORMAL, NO_CODE

_PREFIX = "archibald_rt_"
_NORMAL = 1000
_EMITTING = ("/internal/emit", "/internal/broadcast")
_EMISSION_ANSWERS = (200, 400, 401, 409, 413, 415, 503, 504)


@dataclass(frozen=True, slots=True)
class LogSample:
    """The log at the moment of a scrape."""

    head: int
    bytes: int
    oldest_ms: int | None
    """When the first event that is retained was committed; None without one."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What has counted; ``max_queue`` is in bytes, 0 for no bound."""

    hub: Hub
    order: OrderQueue
    reception: Reception
    upkeep: Upkeep
    requests: RequestLog
    lag: LoopLag
    retention: Retention
    max_queue: int


def families(
    sources: Sources, census: Census, log: LogSample | None, peers: Peers | None
) -> Iterator[Metric]:
    """Yield all metrics; without a sample of it those of the log are left out."""
    yield from _server(sources)
    yield from _connections(sources, census)
    yield from _events(sources, census)
    yield from _delivery(sources)
    yield from _pruning(sources)
    if log is not None:
        yield from _log(log, sources.retention)
    if peers is not None:
        yield from _peers(peers)


def _server(sources: Sources) -> Iterator[Metric]:
    reception, draining = sources.reception, sources.reception.draining
    fault = sources.order.fault is not None
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily(f"{_PREFIX}build", "What runs.", value=build)
    ready = not draining and sources.order.unready is None
    uptime = time.monotonic() - reception.counters.started
    yield _gauge("uptime_seconds", "For how long the server runs.", uptime)
    yield _gauge("ready", "Whether /readyz answers 200.", ready)
    yield _gauge("draining", "Whether the server drains.", draining)
    yield _gauge("commits_failing", "Whether the last commit failed.", fault)
    lag = "How late a timer of the loop is served, looked at every half second."
    yield _histogram("event_loop_lag_seconds", lag, sources.lag.lag)
    answered = CounterMetricFamily(
        f"{_PREFIX}http_requests", "Requests that were answered.", labels=["route", "status"]
    )
    # There from the start, or the first refusal would be no rise of anything.
    emissions = dict.fromkeys(product(_EMITTING, _EMISSION_ANSWERS), 0)
    for (route, status), count in sorted((emissions | sources.requests.answered).items()):
        answered.add_metric([route, str(status)], count)
    yield answered


def _connections(sources: Sources, census: Census) -> Iterator[Metric]:
    reception, counters = sources.reception, sources.reception.counters
    limits = reception.limits
    connected = GaugeMetricFamily(
        f"{_PREFIX}connections", "Devices that are connected.", labels=["dialect", "state"]
    )
    dialects = get_args(DialectName)
    for dialect in dialects:
        connected.add_metric([dialect, "live"], census.connections[dialect, True])
        connected.add_metric([dialect, "behind"], census.connections[dialect, False])
    yield connected
    if reception.tuning.max_connections:
        yield _gauge("connections_limit", "At most so many.", reception.tuning.max_connections)
    yield _gauge("connected_users", "Users with a device.", census.users)
    opened = {dialect: counters.opened[dialect] for dialect in dialects}
    yield _counter("connections_opened", "Devices that were let in.", "dialect", opened)
    codes = map(str, sorted({*map(int, CloseCode), _NORMAL, NO_CODE, ABNORMAL}))
    closed = dict.fromkeys(codes, 0) | counters.closed
    ended = "Connections that ended, by close code; those not let in, too. 1006: without one."
    yield _counter("connections_closed", ended, "code", closed)
    yield _total("resumes", "Devices that asked to resume.", counters.resumed)
    refused = {why.value: counters.refused_for[why] for why in Refusal}
    yield _counter("tokens_refused", "Tokens that were refused.", "reason", refused)
    hits = {"connects": limits.connects, "devices": limits.devices, "messages": limits.messages}
    yield _counter("limits_hit", "What was beyond a limit.", "limit", hits)
    revoked = GaugeMetricFamily(f"{_PREFIX}revocations", "Revocations in force.", labels=["of"])
    revoked.add_metric(["user"], reception.revocations.users)
    revoked.add_metric(["token"], reception.revocations.tokens)
    yield revoked
    yield _total("client_messages_received", "What devices sent.", counters.received)
    ignored = "What devices sent that was no message."
    yield _total("client_messages_ignored", ignored, counters.ignored)
    posted = {
        "posted": counters.posted,
        "failed": counters.post_failures,
        "dropped": counters.messages_dropped,
    }
    yield _counter("webhook_messages", "What devices sent, for the webhook.", "result", posted)


def _events(sources: Sources, census: Census) -> Iterator[Metric]:
    order, replays = sources.order, sources.hub.replays
    measured = order.measured
    dispatched = CounterMetricFamily(
        f"{_PREFIX}events_dispatched",
        "Events handed to live devices, whether or not there were any.",
        labels=["class", "audience"],
    )
    for name, all_of_them, broadcasts in (
        ("durable", order.durable, measured.durable_broadcasts),
        ("transient", order.transient, measured.transient_broadcasts),
    ):
        dispatched.add_metric([name, "user"], all_of_them - broadcasts)
        dispatched.add_metric([name, "everybody"], broadcasts)
    yield dispatched
    duplicate = "Emissions that repeated a key, and stored nothing."
    yield _total("events_duplicate", duplicate, measured.duplicates)
    yield _total("events_sent", "Events put into outboxes, each device's.", census.sent)
    yield _total("events_replayed", "Durable ones of them, to devices behind.", replays.events)
    yield _total("events_dropped", "Transient events given up for devices behind.", census.dropped)
    gaps = {reason: replays.gaps[reason] for reason in get_args(GapReason)}
    yield _counter("gaps", "Losses and unknown cursors, told to devices.", "reason", gaps)


def _delivery(sources: Sources) -> Iterator[Metric]:
    order, budget = sources.order, sources.reception.budget
    measured = order.measured
    took = "From the last byte of a request to the outboxes of live devices."
    yield _histogram("delivery_duration_seconds", took, measured.delivery_time)
    took = "How long a group commit took."
    yield _histogram("commit_duration_seconds", took, measured.commit_time)
    yield _histogram("commit_events", "How many events it stored.", measured.commit_size)
    yield _total("commits_failed", "Commits that failed.", measured.failed_commits)
    yield _gauge("outbox_bytes", "What waits for all devices.", budget.used)
    if budget.limit:
        yield _gauge("outbox_limit_bytes", "At most so much.", budget.limit)
    yield _gauge("queue_bytes", "What waits to be committed or dispatched.", order.size)
    if sources.max_queue:
        yield _gauge("queue_limit_bytes", "At most so much.", sources.max_queue)


def _pruning(sources: Sources) -> Iterator[Metric]:
    upkeep = sources.upkeep
    yield _total("log_pruned_events", "Events deleted by retention.", upkeep.pruned)
    yield _total("log_erased_events", "Events erased on demand.", upkeep.erased)
    runs = {"done": upkeep.runs, "failed": upkeep.failed_runs}
    yield _counter("log_prune_runs", "Runs of pruning.", "result", runs)
    took = "How long the runs that were done took, pauses included."
    yield _total("log_prune_seconds", took, upkeep.seconds)


def _log(log: LogSample, retention: Retention) -> Iterator[Metric]:
    yield _gauge("log_bytes", "What the log takes on disk.", log.bytes)
    if retention.max_size:
        yield _gauge("log_limit_bytes", "What pruning holds it to.", retention.max_size)
    yield _gauge("log_head", "The seq of the last event ever committed.", log.head)
    if log.oldest_ms is not None:
        since = "When the oldest event that is retained was committed."
        yield _gauge("log_oldest_commit_timestamp_seconds", since, log.oldest_ms / 1000)
    if retention.max_age_ms:
        age = "How old events may become."
        yield _gauge("log_max_age_seconds", age, retention.max_age_ms / 1000)


def _peers(peers: Peers) -> Iterator[Metric]:
    unread = "Durable events that are committed and were not dispatched here."
    yield _gauge("log_unread_events", unread, peers.lag)
    late = "For how long, at least, the first of them has waited."
    yield _gauge("log_unread_seconds", late, peers.late)
    silent = "Whether what is committed comes to this server, and in time."
    yield _gauge("log_followed", silent, peers.fault is None)
    dropped = "Transient events of other servers that were given up, since too many waited."
    yield _total("peer_events_dropped", dropped, peers.dropped)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, about, value=value)


def _total(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, about, value=value)


def _counter(name: str, about: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, about, labels=[label])
    for each, value in sorted(values.items()):
        family.add_metric([each], value)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        _PREFIX + name, about, buckets=histogram.cumulative(), sum_value=histogram.total
    )
