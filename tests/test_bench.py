"""The benchmark as a program of its own, on servers that pip alone gives; its parts that judge."""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.processes import cpu_time, family, memory
from benchmarks.results import Contender, Outcome
from benchmarks.targets import judge

BENCH = Path(__file__).parent.parent / "scripts" / "bench"


def outcome(key: str, figure: str, ours: list[float], ws: list[float]) -> Outcome:
    contenders = [
        Contender("new", "ours", version="new", rounds=[{figure: each} for each in ours]),
        Contender("ws", "ws", version="ws", rounds=[{figure: each} for each in ws]),
    ]
    return Outcome(key, key, key, figure, contenders)


def verdict(of: Outcome, title: str) -> tuple[str, float | None]:
    (found,) = [each for each in judge({of.key: of}) if each.title.startswith(title)]
    return found.word, found.figure


def test_a_quick_run_measures_the_server_beside_the_peers_and_keeps_the_figures(
    tmp_path: Path,
) -> None:
    options = ["--quick", "--rounds", "1", "--works", "fan-out", "--cases", "durable-10"]
    with subprocess.Popen(
        [str(BENCH), *options, "--peers", "tornado,raw", "--output", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        try:
            output, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 0, errors

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (case,) = results["cases"]
    costs = {each["label"]: each["medians"]["CPU µs/delivery"] for each in case["contenders"]}
    assert list(costs) == ["archibald_rt", "write_message", "raw send"]
    # A loop of `send` does a part of what the others do, and none of them is free.
    assert 0 < costs["raw send"] < costs["write_message"]
    assert costs["raw send"] < costs["archibald_rt"]
    assert all(label in output for label in costs)
    # No server's files are left, and no server.
    assert {each.name for each in (tmp_path / "out").iterdir()} == {
        "results.json",
        "fan-out-durable-10.png",
    }
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            started_there = (folder / "cwd").readlink().is_relative_to(tmp_path / "out")
        except OSError:
            continue
        assert not started_there, folder


def test_a_word_that_is_no_peer_is_wrong_usage() -> None:
    run = subprocess.run([BENCH, "--peers", "kafka"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "kafka is none of ws, socketio" in run.stderr


def test_a_target_is_judged_by_medians_and_reached_at_its_bound() -> None:
    at_bound = outcome("connect", "CPU µs/connect", [900.0, 500.0, 400.0], [500.0, 100.0, 700.0])
    assert verdict(at_bound, "connecting") == ("reached", 1.0)

    above = outcome("connect", "CPU µs/connect", [501.0], [500.0])
    assert verdict(above, "connecting") == ("missed", 1.002)


def test_a_target_whose_peer_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert verdict(outcome("connect", "CPU µs/connect", [500.0], []), "connecting") == (
        "not measured",
        None,
    )


def test_growth_compares_a_version_with_its_own_smallest_log() -> None:
    contenders = [
        Contender(f"{version}, {rows}", "ours", rows, version, [{"CPU µs/resume": cost}])
        for version, costs in (("old", (100.0, 300.0)), ("new", (200.0, 210.0)))
        for rows, cost in zip((1000, 10_000), costs, strict=True)
    ]
    growth = Outcome("growth-attach", "growth", "growth", "CPU µs/resume", contenders)
    found = {each.label: (each.figure, each.word) for each in judge({growth.key: growth})}
    assert found == {"old": (3.0, "missed"), "new": (1.05, "reached")}


def test_the_cpu_time_of_a_process_counts_its_threads_also_those_that_ended() -> None:
    program = """
import sys, threading, time
def work():
    for _ in range(10**6): pass
    print(time.thread_time_ns(), flush=True)
thread = threading.Thread(target=work)
thread.start(); thread.join()
print(time.thread_time_ns(), flush=True); sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        ended, alive = int(process.stdout.readline()), int(process.stdout.readline())
        used = cpu_time(process.pid)
        process.communicate()
    # What it used between saying so and being asked is little beside a million turns.
    assert ended + alive <= used < 1.5 * (ended + alive)


def test_the_figures_of_a_process_include_its_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        while len(members := family(process.pid)) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        assert members[0] == process.pid
        child = memory(members[1]).rss
        with_child = memory(process.pid).rss
        process.communicate(b"\n")
    # The child is half of it, more or less: it runs the same interpreter.
    assert with_child > 1.5 * child
