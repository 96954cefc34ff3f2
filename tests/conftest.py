import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from tornado.ioloop import IOLoop

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
