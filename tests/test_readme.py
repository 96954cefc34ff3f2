"""The README and the pages of ``docs/`` are true: what they show runs, what they name exists."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO

import click
import pytest

from archibald_rt.cli import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PATIENCE = 30

# Stands in for curl on a machine that has none; it knows what the README uses.
CURL = """#!{python}
import argparse
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("-H", action="append", default=[])
parser.add_argument("-d")
words = parser.parse_args()
headers = dict(header.split(": ", 1) for header in words.H)
request = urllib.request.Request(words.url, words.d and words.d.encode(), headers)
print(urllib.request.urlopen(request).read().decode(), end="")
"""


def section(title: str) -> str:
    """Return what stands under a heading of the README."""
    match = re.search(
        rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert match is not None, title
    return match[1]


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@dataclass
class Running:
    """A server as ``scripts/run`` starts it, on free ports."""

    public: str
    internal: str
    emit_token: str
    user_token: str

    def here(self, text: str) -> str:
        """Put this server's addresses in place of the default ones."""
        text = text.replace("http://127.0.0.1:8080", self.public)
        return text.replace("http://127.0.0.1:8081", self.internal)

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of a reader who has copied the tokens."""
        if shutil.which("curl") is None:
            stand_in = folder / "curl"
            stand_in.write_text(CURL.format(python=sys.executable))
            stand_in.chmod(0o755)
        return clean_environment() | {
            "PATH": f"{os.environ['PATH']}:{folder}",
            "EMIT_TOKEN": self.emit_token,
            "USER_TOKEN": self.user_token,
            "ARCHIBALD_RT_URL": self.internal,
        }

    def shell(self, script: str, folder: Path) -> str:
        """Run a script of the README at the project's root, and return what it prints."""
        # The reader's Python is that of .venv; this test's may be another one.
        script = self.here(script).replace(".venv/bin/python", sys.executable)
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=ROOT,
            env=self.environment(folder),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def clean_environment() -> dict[str, str]:
    """Return the environment without what a developer may have configured."""
    return {name: text for name, text in os.environ.items() if not name.startswith("ARCHIBALD_RT_")}


@contextmanager
def started(
    folder: Path, *options: str, **environment: str
) -> Iterator[tuple[dict[str, str], Path, subprocess.Popen[str]]]:
    """Run a server as a process; yields its first log line, what it prints, and itself."""
    printed = folder / "printed"
    with (
        printed.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "archibald_rt", "serve", *options],
            cwd=folder,
            env=clean_environment()
            | {"ARCHIBALD_RT_LOGGING_FORMAT": "json", "PYTHONUNBUFFERED": "1"}
            | environment,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert '"listening"' in line, line
            yield json.loads(line), printed, process
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    ports = {"ARCHIBALD_RT_SERVER_PORT": "0", "ARCHIBALD_RT_INTERNAL_PORT": "0"}
    with started(tmp_path, "--dev", **ports) as (listening, printed, process):
        # The lines are printed right after the log's, in one piece.
        while "curl " not in (text := printed.read_text()):
            assert process.poll() is None
            time.sleep(0.01)
        tokens = dict(re.findall(r"^  (emit|user) token   (\S+)", text, re.MULTILINE))
        yield Running(listening["public"], listening["internal"], tokens["emit"], tokens["user"])


def test_the_first_event_of_the_readme_comes_about(server: Running, tmp_path: Path) -> None:
    text = section("A first event in a minute")
    _run, _export, curl, job = blocks(text, "sh")
    assert _run.strip() == "scripts/run"
    assert re.findall(r"\w+(?==)", _export) == ["EMIT_TOKEN", "USER_TOKEN"]

    answers = [json.loads(line) for line in re.findall(r"{.*?}", server.shell(curl, tmp_path))]
    shown = [json.loads(line) for block in blocks(text, "json") for line in block.splitlines()]
    assert [{**answer, "id": "", "timestamp": ""} for answer in answers] == [
        {**answer, "id": "", "timestamp": ""} for answer in shown
    ]
    assert [answer["id"] is None for answer in answers] == [s["id"] is None for s in shown]

    listener = tmp_path / "listen.py"
    listener.write_text(server.here(*blocks(text, "python")))
    with subprocess.Popen(
        [sys.executable, str(listener)],
        env=server.environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
    ) as listening:
        lines: Queue[str] = Queue()
        assert listening.stdout is not None
        reader = threading.Thread(target=pass_on, args=[listening.stdout, lines])
        reader.start()
        try:
            assert (
                lines.get(timeout=PATIENCE) == f"{answers[0]['id']} JOB_STARTED {{'jobId': '7'}}\n"
            )
            assert "completed" in server.shell(job, tmp_path)
            got = [lines.get(timeout=PATIENCE).split()[1] for _ in range(7)]
        finally:
            listening.kill()
            reader.join()
    assert got == ["JOB_STARTED", *["JOB_PROGRESS"] * 5, "JOB_COMPLETED"]


def test_the_examples_of_the_emitter_emit(server: Running, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    printed = []
    for text in blocks((ROOT / "docs" / "emitter.md").read_text(), "python"):
        example.write_text(server.here(text))
        done = subprocess.run(
            [sys.executable, "-W", "error", str(example)],
            env=server.environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.stderr == ""
        printed.append(done.stdout)
    with_asyncio, without, job = printed
    for line in (with_asyncio, without):
        assert re.fullmatch(r"[0-9a-f]+:\d+ 0\n", line)
    assert re.fullmatch(r"[0-9a-f]{32}\n", job)


def pass_on(output: IO[str], lines: "Queue[str]") -> None:
    for line in output:
        lines.put(line)


def test_the_configuration_of_the_readme_is_one_to_start_with(tmp_path: Path) -> None:
    text = section("Configuration")
    secrets = {}
    for name in ("emit_tokens", "jwt_secret"):
        secrets[name] = tmp_path / name
        made = re.search(r"`python3 -c \"(.+)\"`", text)
        assert made is not None
        with secrets[name].open("w") as file:
            subprocess.run([sys.executable, "-c", made[1]], stdout=file, check=True)
    (config,) = blocks(text, "ini")
    config = re.sub(r"(\w+)_file = \S+", lambda m: f"{m[1]}_file = {secrets[m[1]]}", config)
    config = re.sub(r"port = \d+", "port = 0", config)
    config = re.sub(r"path = \S+", f"path = {tmp_path / 'events.db'}", config)
    (tmp_path / "config.ini").write_text(config)

    check, serve = (line.split() for line in blocks(text, "sh")[0].splitlines())
    assert check == ["archibald-rt", "config", "check", "--config", "config.ini"]
    done = subprocess.run(
        [sys.executable, "-m", "archibald_rt", *check[1:]],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "the configuration is good\n"
    assert serve[:2] == ["archibald-rt", "serve"]
    with started(tmp_path, *serve[2:]) as (listening, _printed, _process):
        assert listening["log"] == str(tmp_path / "events.db")


def test_the_scripts_that_the_readme_names_are_there_and_can_be_run() -> None:
    named = set(re.findall(r"scripts/[\w.]+", README.read_text()))
    assert {"scripts/run", "scripts/test", "scripts/demo"} <= named
    for name in named:
        assert os.access(ROOT / name, os.X_OK), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(group: click.Group, path: str) -> Iterator[str]:
    """Yield every command line under a group."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_every_command_is_documented() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    for command in commands(cli, "archibald-rt"):
        assert f"`{command}" in pages, command


def test_every_route_is_documented_and_no_other() -> None:
    source = (ROOT / "archibald_rt" / "app.py").read_text()
    # A part of a path that is free stands as `[^/]*` in a route, as its name in the page.
    routes = {
        path.replace("[^/]*", "<>").replace("\\.", ".")
        for path in re.findall(r'r"(/[^"]+)"', source)
    }
    assert len(routes) >= 8
    page = (ROOT / "docs" / "protocol.md").read_text()
    documented = re.findall(r"`(?:GET|POST|DELETE) (/[\w/<>.]+)`", page)
    assert {re.sub(r"<\w+>", "<>", path) for path in documented} == routes
