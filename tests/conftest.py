import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from tornado.ioloop import IOLoop


def pytest_configure() -> None:
    """Let Ctrl-C be heard, here and by the programs that are started.

    Whoever runs the tests in the background of a shell has it ignored, by them all.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """The loop of a test marked `gen_test`: its own, and nothing outlives it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    io_loop = IOLoop(asyncio_loop=loop, make_current=False)
    yield io_loop
    left_over = asyncio.all_tasks(loop)
    for task in left_over:
        task.cancel()
    # What a left-over raises while it is cancelled is nobody's failure any more.
    loop.run_until_complete(_settled(left_over))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    io_loop.close()
    asyncio.set_event_loop(None)


async def _settled(tasks: set[asyncio.Task[object]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


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
