from collections.abc import Iterator

import pytest

from faults.report import Report
from faults.system import missing


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "fault(name): the row of docs/guarantees.md that the test measures",
        "needs(*names): programs and abilities of the machine without which it is skipped",
    ):
        config.addinivalue_line("markers", marker)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            if (reason := missing(need)) is not None:
                pytest.skip(reason)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Where a test takes down its row; one that passes has to."""
    failed = request.session.testsfailed
    report = Report([marker.args[0] for marker in request.node.iter_markers("fault")])
    yield report
    if request.session.testsfailed == failed and not report.noted:
        pytest.fail("the test has taken nothing down")
