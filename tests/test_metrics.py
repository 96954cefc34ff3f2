"""``/metrics``: what a server that has seen a bit of everything says of it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from archibald_rt import __version__, scrape
from archibald_rt.errors import LogBrokenError, LogUnavailableError
from archibald_rt.eventlog.sqlite import SQLiteLog
from eventstreams import listen
from logged import logged
from support import PATIENCE, READ_TOKEN, Harness, eventually, harness, token

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

Failing = Callable[[Exception], AbstractContextManager[None]]

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        parse = openmetrics_families if openmetrics else text_string_to_metric_families
        self.types: dict[str, str] = {}
        self.samples: list[Sample] = []
        for family in parse(text):
            self.types[family.name] = family.type
            self.samples += family.samples

    def __call__(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels; there has to be one."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == f"archibald_rt_{name}" and labels.items() <= sample.labels.items()
        ]
        assert found, name
        return sum(found)

    def has(self, name: str) -> bool:
        return any(sample.name == f"archibald_rt_{name}" for sample in self.samples)


async def fetched(at: Harness, accept: str = "text/plain") -> HTTPResponse:
    return await AsyncHTTPClient().fetch(
        f"{at.server.internal_url}/metrics",
        headers={"Authorization": f"Bearer {READ_TOKEN}", "Accept": accept},
    )


def series(of: Scrape) -> set[str]:
    return {f"{each.name} {each.labels}" for each in of.samples}


async def scraped(at: Harness) -> Scrape:
    return Scrape((await fetched(at)).body.decode())


async def a_bit_of_everything(at: Harness) -> None:
    """Have some of everything happen, and return when it is over."""
    first = await at.emit({"userId": "ada", "type": "A", "key": "k"})
    await at.emit({"userId": "ada", "type": "A", "key": "k"})
    await at.emit({"type": "NEWS"}, "broadcast")
    await at.emit({"type": "NEWS", "durable": True}, "broadcast")
    await at.emit({"userIds": ["ada", "bob"], "type": "JOB_PROGRESS"})
    await at.emit([{"userId": "ada", "type": "B"}, {"userId": "ada", "type": "C"}])
    assert (await at.post("/internal/emit", b"{}")).code == 400
    assert (await at.get("/nothing")).code == 404
    assert (await at.get("/internal/emit", public=True)).code == 404
    assert (await at.get("/internal/users/ada/events")).code == 200
    async with await at.connect("ada", lastEventId=first["id"]) as behind:
        await behind.until("rt.live")
        async with await at.connect("ada", v2=False) as old:
            await at.emit({"userId": "ada", "type": "D"})
            assert (await old.next())["type"] == "D"
            now = await scraped(at)
            assert now("connections", dialect="v1", state="live") == 1
            assert now("connections", dialect="v2", state="live") == 1
            assert now("connections") == 2
            assert now("connected_users") == 1
            async with await at.connect("ada") as third:
                assert (await behind.closed())[0] == 4003
                await third.until("rt.live")
    async with await listen(at, "ada") as stream:
        await stream.until("rt.live")
        now = await scraped(at)
        assert now("connections", dialect="sse", state="live") == 1
    async with await at.open({"token": "wrong"}) as refused:
        assert (await refused.closed())[0] == 1008
    async with await at.connect("ada", lastEventId="other:1") as lost:
        await lost.until("rt.live")
    assert (await at.delete("/internal/users/ada/events")).code == 200
    async with await at.connect("ada", lastEventId=first["id"]) as late:
        await late.until("rt.gap")
        await late.until("rt.live")


EXPECTED: list[tuple[float, str, dict[str, str]]] = [
    (4, "events_dispatched_total", {"class": "durable", "audience": "user"}),
    (1, "events_dispatched_total", {"class": "durable", "audience": "everybody"}),
    (2, "events_dispatched_total", {"class": "transient", "audience": "user"}),
    (1, "events_dispatched_total", {"class": "transient", "audience": "everybody"}),
    (1, "events_duplicate_total", {}),
    # Three after the first, then all five, then the broadcast that is left.
    (9, "events_replayed_total", {}),
    (11, "events_sent_total", {}),
    (0, "events_dropped_total", {}),
    (1, "gaps_total", {"reason": "epoch"}),
    (1, "gaps_total", {"reason": "expired"}),
    (2, "gaps_total", {}),
    (0, "connections", {}),
    (1, "connections_opened_total", {"dialect": "v1"}),
    (4, "connections_opened_total", {"dialect": "v2"}),
    (1, "connections_opened_total", {"dialect": "sse"}),
    # Whose client went without a word, as they do.
    (1, "connections_closed_total", {"code": "1006"}),
    (1, "connections_closed_total", {"code": "4003"}),
    (1, "connections_closed_total", {"code": "1008"}),
    (3, "resumes_total", {}),
    (1, "tokens_refused_total", {"reason": "malformed"}),
    (1, "tokens_refused_total", {}),
    (1, "limits_hit_total", {"limit": "devices"}),
    (5, "http_requests_total", {"route": "/internal/emit", "status": "200"}),
    (2, "http_requests_total", {"route": "/internal/broadcast", "status": "200"}),
    (1, "http_requests_total", {"route": "/internal/emit", "status": "400"}),
    (2, "http_requests_total", {"route": "/internal/users/{id}/events", "status": "200"}),
    (2, "http_requests_total", {"route": "other", "status": "404"}),
    (6, "http_requests_total", {"route": "/ws/realtime", "status": "101"}),
    (7, "delivery_duration_seconds_count", {}),
    # The duplicate had a commit, and nothing to store.
    (5, "commit_duration_seconds_count", {}),
    (4, "commit_events_count", {}),
    (5, "commit_events_sum", {}),
    (0, "commits_failed_total", {}),
    (5, "log_head", {}),
    (4, "log_erased_events_total", {}),
    (7 * 86400, "log_max_age_seconds", {}),
    (1 << 30, "log_limit_bytes", {}),
    (0, "outbox_bytes", {}),
    (256 << 20, "outbox_limit_bytes", {}),
    (0, "queue_bytes", {}),
    (64 << 20, "queue_limit_bytes", {}),
    (1, "ready", {}),
    (0, "draining", {}),
    (0, "commits_failing", {}),
    (1, "build_info", {"version": __version__}),
]


@pytest.mark.gen_test
async def test_what_happened_is_counted(tmp_path: Path) -> None:
    async with harness(tmp_path, {"delivery.devices_per_user": "2"}) as at:
        began = time.time()
        await a_bit_of_everything(at)

        async def over() -> bool:
            now = await scraped(at)
            looked = now("event_loop_lag_seconds_count") > 0
            pruned = now("log_prune_runs_total", result="done") > 0
            return now("connections_closed_total") == 7 and looked and pruned

        await eventually(over)
        now = await scraped(at)
        found = [(now(name, **labels), name, labels) for _, name, labels in EXPECTED]
        assert found == EXPECTED
        size = (tmp_path / "events.db").stat().st_size
        assert size <= now("log_bytes")
        # Of the log's own steady clock.
        assert abs(now("log_oldest_commit_timestamp_seconds") - began) < 3600
        assert any(each.name == "process_open_fds" for each in now.samples)


@pytest.mark.gen_test
async def test_both_formats_say_the_same_and_name_their_type(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.emit({"userId": "ada", "type": "A"})
        plain, open_ = await fetched(at), await fetched(at, OPENMETRICS)
        odd = await fetched(at, "application/openmetrics-text;version=x, nonsense;;,")
        assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert open_.headers["Content-Type"].startswith("application/openmetrics-text; version=1")
        assert odd.headers["Content-Type"] == open_.headers["Content-Type"]
        one = Scrape(plain.body.decode())
        other = Scrape(open_.body.decode(), openmetrics=True)
        names = {sample.name for sample in one.samples}
        assert names == {sample.name for sample in other.samples}
        assert {each for each in names if each.endswith("_created")} == set()
        # The one says "counter" and "info" of the name with its ending.
        assert set(one.types) <= set(other.types) | names
        assert one("events_dispatched_total") == other("events_dispatched_total") == 1


@pytest.mark.gen_test
async def test_only_those_with_an_emit_or_read_token_see_it_and_nobody_outside(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at:
        for bearer in (at.settings.internal.emit_tokens[0], READ_TOKEN):
            assert (await at.get("/metrics", bearer=bearer)).code == 200
        for wrong in (None, "wrong", token("ada", role="admin")):
            assert (await at.get("/metrics", bearer=wrong)).code == 401
        assert (await at.get("/metrics", public=True)).code == 404


@pytest.mark.gen_test
async def test_no_label_is_made_by_those_who_ask_or_connect(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.emit({"userId": "ada-lovelace", "type": "A"})
        before = series(await scraped(at))
        for number in range(20):
            await at.emit({"userId": f"odd-user-{number}", "type": f"ODD_{number}", "key": "odd"})
            await at.get(f"/odd-{number}")
            await at.get(f"/internal/users/odd-{number}/events")
            await at.delete(f"/internal/users/odd-{number}/events")
            async with await at.connect(f"odd-{number}") as device:
                device.socket.close(4100 + number, "odd")

        async def all_gone() -> bool:
            return (await scraped(at))("connections") == 0

        await eventually(all_gone)
        now = await scraped(at)
        after = series(now) - before
        assert "odd" not in str(after)
        # Four routes with a status each, and one code that stands for all.
        assert len(after) == 5, after
        assert now("connections_closed_total", code="other") == 20


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Have the log fail for a block where the oldest event is asked for."""

    @contextlib.contextmanager
    def failing(error: Exception) -> Iterator[None]:
        async def oldest(_log: SQLiteLog) -> int | None:
            raise error

        with monkeypatch.context() as patching:
            patching.setattr(SQLiteLog, "oldest", oldest)
            yield

    return failing


@pytest.mark.gen_test
async def test_a_log_that_can_not_be_read_costs_its_metrics_and_no_others(
    tmp_path: Path, failing: Failing
) -> None:
    async with harness(tmp_path) as at:
        with failing(LogUnavailableError("busy")), logged() as lines:
            now = await scraped(at)
            assert not now.has("log_bytes")
            assert now("ready") == 1
            (line,) = lines.entries(event="the log's metrics are left out")
            assert line["reason"] == "busy"
        assert (await scraped(at)).has("log_bytes")


@pytest.mark.gen_test
async def test_a_log_that_can_not_be_relied_on_ends_the_server(
    tmp_path: Path, failing: Failing
) -> None:
    async with harness(tmp_path) as at:
        with failing(LogBrokenError("damaged")), logged():
            assert not (await scraped(at)).has("log_bytes")
        await at.server.shutdown.wanted()  # type: ignore[attr-defined]  # in this process


@pytest.mark.gen_test
async def test_a_log_that_is_slow_to_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def oldest(_log: SQLiteLog) -> int | None:
        await never.wait()
        return None

    async with harness(tmp_path) as at:
        monkeypatch.setattr(SQLiteLog, "oldest", oldest)
        monkeypatch.setattr(scrape, "PATIENCE", 0.01)
        with logged() as lines:
            assert not (await scraped(at)).has("log_bytes")
            (line,) = lines.entries(event="the log's metrics are left out")
            assert line["reason"] == "timed out"


@pytest.mark.gen_test
async def test_a_stream_that_is_ended_counts_with_the_code_it_was_told(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        async with await listen(at, "ada") as stream:
            await stream.until("rt.live")
            assert (await at.post("/internal/users/ada/disconnect", b"{}")).code == 200
            await stream.until("rt.close")

        async def counted() -> bool:
            return (await scraped(at))("connections_closed_total", code="4002") == 1

        await eventually(counted)
        assert (await scraped(at))("connections_closed_total") == 1


def test_the_process_is_in_figures_where_proc_shows_processes_alone(tmp_path: Path) -> None:
    # As `ProcSubset=pid` in docs/deploy/archibald-rt.service makes it: no /proc/stat.
    (tmp_path / "self").symlink_to("/proc/self")
    confined = {each.name: each for each in scrape.ProcessFigures(str(tmp_path)).collect()}
    everywhere = {each.name: each for each in ProcessCollector(registry=None).collect()}
    assert confined.keys() == everywhere.keys() >= {"process_open_fds", "process_cpu_seconds"}
    # To the second, in which the system's own figure is.
    began = [each["process_start_time_seconds"].samples[0].value for each in (confined, everywhere)]
    assert abs(began[0] - began[1]) < PATIENCE.total_seconds()


@pytest.mark.gen_test
async def test_a_draining_server_says_that_it_is_not_ready(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        assert (await scraped(at))("draining") == 0
        at.server._reception.draining = True  # type: ignore[attr-defined]  # noqa: SLF001 - what a drain begins with
        now = await scraped(at)
        assert (now("ready"), now("draining")) == (0, 1)


@pytest.mark.gen_test
async def test_failing_commits_and_pruning_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise LogUnavailableError("the disk is full")

    async with harness(tmp_path, {"log.prune_every": "10ms"}) as at:
        with logged(), monkeypatch.context() as patching:
            for name in ("append", "probe", "prune"):
                patching.setattr(SQLiteLog, name, fails)
            assert (await at.post("/internal/emit", b'{"userId":"u","type":"A"}')).code == 503
            now = await scraped(at)
            assert (now("commits_failing"), now("ready")) == (1, 0)
            assert now("commits_failed_total") >= 1
            assert now("http_requests_total", route="/internal/emit", status="503") == 1

            async def pruning_failed() -> bool:
                return (await scraped(at))("log_prune_runs_total", result="failed") > 0

            await eventually(pruning_failed)

        async def well() -> bool:
            return (await scraped(at))("ready") == 1

        await eventually(well)


@pytest.mark.gen_test
async def test_a_connection_that_breaks_the_rules_counts_with_what_it_was_told(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as at:
        async with await at.connect("ada") as device:
            await device.until("rt.live")
            assert device.socket.protocol is not None
            assert device.socket.protocol.stream is not None
            # No client may send a frame that is not masked.
            await device.socket.protocol.stream.write(b"\x81\x01a")
            assert (await device.closed())[0] == 1002

        async def counted() -> bool:
            return (await scraped(at))("connections_closed_total", code="1002") == 1

        await eventually(counted)
