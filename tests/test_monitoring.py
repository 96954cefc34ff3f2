"""The alerts and the dashboard of docs/monitoring: of metrics that there are, and that fire."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import harness

DOCS = Path(__file__).parent.parent / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "grafana-dashboard.json"

# What Prometheus adds, and what Grafana puts in.
ADDED = {"job", "instance"}
METRIC = re.compile(r"\b(?:archibald_rt|process)_[a-z_]+\b(?:\{(?P<matchers>[^}]*)\})?")
MATCHER = re.compile(r'(?P<label>\w+)\s*(?P<how>=~|!=|!~|=)\s*"(?P<value>[^"]*)"')
GROUPED = re.compile(r"\b(?:by|without|on|ignoring)\s*\((?P<labels>[^)]*)\)")


def queries() -> list[str]:
    """Return every expression of both, and the queries of the dashboard's variables."""
    alerts = re.sub(r"(?m)^\s*(?:#|summary:|runbook:).*$", "", ALERTS.read_text())
    dashboard = json.loads(DASHBOARD.read_text())
    variables = dashboard["templating"]["list"]
    asked = [each["query"]["query"] for each in variables if each["type"] == "query"]
    return [alerts, *asked, *expressions(dashboard)]


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", ALERTS.read_text())


@pytest.mark.gen_test
async def test_every_metric_and_label_that_is_asked_for_is_there(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.emit({"userId": "ada", "type": "A"})
        text = (await at.get("/metrics")).body.decode()
    values: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = values.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    asked: set[str] = set()
    for query in queries():
        grouped = set(ADDED)
        for match in METRIC.finditer(query):
            name = re.split(r"\{", match[0])[0]
            assert name in values, name
            asked.add(name)
            grouped |= set(values[name])
            for matcher in MATCHER.finditer(match["matchers"] or ""):
                label, how, value = matcher["label"], matcher["how"], matcher["value"]
                if label in ADDED:
                    continue
                known = values[name].get(label, set())
                found = {each for each in known if re.fullmatch(value, each)}
                assert found if how in {"=~", "!~"} else value in known, match[0]
        for match in GROUPED.finditer(query):
            assert {each.strip() for each in match["labels"].split(",")} <= grouped, query
    # Whatever is counted is shown, but for what is there to be joined with.
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in values}
    assert there - shown == {
        *("archibald_rt_connected_users", "archibald_rt_draining", "archibald_rt_log_head"),
        *("archibald_rt_log_prune_seconds_total", "archibald_rt_resumes_total"),
        *("archibald_rt_revocations", "process_virtual_memory_bytes"),
    }


def test_every_alert_is_explained_and_leads_to_what_to_do() -> None:
    page = (DOCS / "monitoring.md").read_text()
    headings = re.findall(r"(?m)^#+ (.+)$", page)
    runbooks = re.findall(r"runbook: docs/monitoring\.md#(\S+)", ALERTS.read_text())
    assert runbooks == [name.lower() for name in alerts()]
    assert set(alerts()) <= set(headings)


def test_the_panels_of_the_dashboard_lie_beside_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def promtool(*arguments: str | Path) -> None:
    run = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.needs("promtool")
def test_prometheus_reads_the_alerts_and_every_query_of_the_dashboard(tmp_path: Path) -> None:
    promtool("check", "rules", ALERTS)
    rules = []
    for number, query in enumerate(expressions(json.loads(DASHBOARD.read_text()))):
        expression = query.replace("$__rate_interval", "5m")
        rules.append({"record": f"panel:{number}", "expr": expression})
    assert rules
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", file)


@pytest.mark.needs("promtool")
@pytest.mark.gen_test
async def test_prometheus_finds_nothing_to_say_of_the_metrics(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.emit({"userId": "ada", "type": "A"})
        text = (await at.get("/metrics")).body
    run = subprocess.run(  # noqa: ASYNC221 - nothing else is to be done
        ["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


MIB, DAY = 1024 * 1024, 86400

Series = dict[str, str]
"""What Prometheus scraped, a sample a minute, as its tests write it."""


def of(name: str, values: str, **labels: str) -> Series:
    matched = ",".join(f'{each}="{value}"' for each, value in labels.items())
    prefix = "" if name == "up" or name.startswith("process_") else "archibald_rt_"
    return {f'{prefix}{name}{{job="archibald_rt",instance="a",{matched}}}': values}


def steadily(value: float) -> str:
    return f"{value}+0x200"


def rising(a_minute: float) -> str:
    return f"0+{a_minute}x200"


def timed(name: str, seconds: str) -> Series:
    """Return a histogram whose values, sixty a minute, are not above one of its bounds."""
    bounds = ["0.025", "0.25", "0.5", "1.0", "2.5", "+Inf"]
    above = bounds.index(seconds)
    return {
        key: value
        for place, bound in enumerate(bounds)
        for key, value in of(
            f"{name}_bucket", rising(60 if place >= above else 0), le=bound
        ).items()
    }


def connections(live: int, behind: int) -> Series:
    return {
        **of("connections", steadily(live), dialect="v2", state="live"),
        **of("connections", steadily(behind), dialect="v2", state="behind"),
    }


HEALTHY: Series = {
    **of("up", steadily(1)),
    **of("process_start_time_seconds", "5+0x50 900+0x150"),
    **of("commits_failing", steadily(0)),
    **of("http_requests_total", rising(6000), route="/internal/emit", status="200"),
    **of("http_requests_total", rising(60), route="/internal/emit", status="409"),
    **of("http_requests_total", rising(60), route="/readyz", status="503"),
    **of("queue_bytes", steadily(31 * MIB)),
    **of("queue_limit_bytes", steadily(64 * MIB)),
    **timed("commit_duration_seconds", "0.25"),
    **timed("delivery_duration_seconds", "1.0"),
    **timed("event_loop_lag_seconds", "0.025"),
    **of("log_bytes", steadily(900 * MIB)),
    **of("log_limit_bytes", steadily(1024 * MIB)),
    **of("log_prune_runs_total", rising(1), result="done"),
    **of("log_prune_runs_total", "0x100 1x100", result="failed"),
    **of("log_oldest_commit_timestamp_seconds", steadily(0)),
    **of("log_max_age_seconds", steadily(7200)),
    **of("gaps_total", steadily(3), reason="expired"),
    **of("gaps_total", "0x100 5x100", reason="epoch"),
    **connections(900, 200),
    **of("connections_limit", steadily(1300)),
    **of("outbox_bytes", steadily(200 * MIB)),
    **of("outbox_limit_bytes", steadily(256 * MIB)),
    **of("process_open_fds", steadily(1800)),
    **of("process_max_fds", steadily(2000)),
    **of("tokens_refused_total", rising(100), reason="expired"),
    **of("connections_opened_total", rising(110), dialect="v2"),
    **of("limits_hit_total", rising(50), limit="connects"),
    **of("webhook_messages_total", rising(600), result="posted"),
    **of("webhook_messages_total", steadily(9), result="failed"),
}

# What has to be otherwise for an alert, and after how many minutes of it that has to fire.
TROUBLES: dict[str, tuple[Series, int]] = {
    "ArchibaldDown": (of("up", steadily(0)), 2),
    "ArchibaldRestarts": (of("process_start_time_seconds", "1 1 2 2 3 3"), 5),
    "ArchibaldCommitsFail": (of("commits_failing", steadily(1)), 2),
    "ArchibaldRefusesEmissions": (
        of("http_requests_total", rising(5), route="/internal/emit", status="503"),
        10,
    ),
    "ArchibaldQueueFills": (of("queue_bytes", steadily(33 * MIB)), 2),
    "ArchibaldSlowCommits": (timed("commit_duration_seconds", "0.5"), 20),
    "ArchibaldSlowDelivery": (timed("delivery_duration_seconds", "2.5"), 20),
    "ArchibaldLoopLags": (timed("event_loop_lag_seconds", "0.5"), 20),
    "ArchibaldLogTooLarge": (of("log_bytes", steadily(1200 * MIB)), 40),
    "ArchibaldLogNearLimit": (of("log_bytes", steadily(950 * MIB)), 70),
    "ArchibaldPruningFails": (of("log_prune_runs_total", rising(1), result="failed"), 15),
    "ArchibaldEventsTooOld": (of("log_max_age_seconds", steadily(60)), 130),
    "ArchibaldDevicesLoseEvents": (of("gaps_total", "3 4+0x200", reason="expired"), 5),
    "ArchibaldForeignCursors": (of("gaps_total", rising(1), reason="epoch"), 60),
    "ArchibaldDevicesBehind": (connections(700, 300), 15),
    "ArchibaldMemoryFills": (of("outbox_bytes", steadily(210 * MIB)), 10),
    "ArchibaldNearlyFull": (of("connections_limit", steadily(1200)), 10),
    "ArchibaldDescriptorsRunOut": (of("process_open_fds", steadily(1950)), 10),
    "ArchibaldRefusesTokens": (of("tokens_refused_total", rising(120), reason="expired"), 20),
    "ArchibaldLimitsHit": (of("limits_hit_total", rising(70), limit="connects"), 25),
    "ArchibaldLosesClientMessages": (of("webhook_messages_total", rising(5), result="failed"), 20),
}


def case(series: Series, minutes: int, firing: list[str]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": text} for name, text in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minutes}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing
                ],
            }
        ],
    }


@pytest.mark.needs("promtool")
def test_each_alert_fires_in_its_trouble_and_none_of_them_without(tmp_path: Path) -> None:
    assert list(TROUBLES) == alerts()
    cases = [case(HEALTHY, minutes, []) for minutes in (5, 30, 90, 150)]
    for name, (trouble, minutes) in TROUBLES.items():
        assert {**HEALTHY, **trouble} != HEALTHY
        cases.append(case({**HEALTHY, **trouble}, minutes, [name]))
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": cases}))
    promtool("test", "rules", file)
