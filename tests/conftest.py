import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings
from tornado.ioloop import IOLoop

import support
from engines import ENGINES, SQLITE, Engine, streams_of
from natsservers import NatsServer, nats_server, patient
from natswire import Wire
from support import fresh_loop
from system import missing

FIGURES = pytest.StashKey[list[str]]()
"""What tests found that is worth a line even when all went well."""


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C be heard, here and by the programs that are started.

    Whoever runs the tests in the background of a shell has it ignored, by them all.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes says nothing of it on a machine that halts.
    settings.register_profile(
        "untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")
    config.stash[FIGURES] = []
    config.addinivalue_line(
        "markers",
        "needs(*names): programs and abilities of the machine without which it is skipped",
    )
    config.addinivalue_line(
        "markers", "fault(name): the row of docs/guarantees.md that the test measures"
    )
    config.addinivalue_line(
        "markers", "sqlite(reason): stays with the log in a file where its module has both engines"
    )
    config.addinivalue_line("markers", "long: takes minutes; scripts/test runs it beside the rest")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, and say why, what this machine can't run; in CI that is a failure."""
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            if (reason := missing(need)) is not None:
                pytest.skip(reason)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Have a line printed at the end of the run: how many cases there were of something."""
    return pytestconfig.stash[FIGURES].append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was reported."""
    for line in config.stash[FIGURES]:
        terminalreporter.write_line(line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses `engine` once with each; with SQLite alone what is marked so."""
    if "engine" in metafunc.fixturenames:
        alone = metafunc.definition.get_closest_marker("sqlite")
        engines = [SQLITE] if alone else ENGINES
        metafunc.parametrize("engine", engines, indirect=True, ids=[each.name for each in engines])


@pytest.fixture(scope="session")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A NATS server for all tests that need no more of one than streams of their own."""
    with nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Have the servers of a test, in this process, keep their logs by one of the `ENGINES`."""
    if request.param is SQLITE:
        yield request.param
        return
    nats: NatsServer = request.getfixturevalue("shared_nats")
    made: set[str] = set()

    def log_in(folder: Path) -> Mapping[str, str]:
        # In the same folder it is the same log again.
        stream = f"T{crc32(bytes(folder)):08x}"
        made.add(stream)
        return {"log.engine": "nats", "nats.servers": nats.url, "nats.stream": stream}

    patient(monkeypatch)
    monkeypatch.setattr(support, "log_in", log_in)
    yield request.param
    with Wire(nats.url) as wire:
        for stream in made:
            wire.delete(streams_of(stream))


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """The loop of a test marked `gen_test`: its own, and nothing outlives it."""
    with fresh_loop() as loop:
        yield loop


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was skipped has failed: nobody would see that it never runs."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    skipped = reporter.stats.get("skipped", [])
    if skipped and os.environ.get("CI") == "true" and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{len(skipped)} tests were skipped, which CI doesn't allow", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
