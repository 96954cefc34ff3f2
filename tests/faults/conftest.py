from collections.abc import Iterator

import pytest

from faults.report import Report


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Where a test takes down its row; one that passes has to."""
    failed = request.session.testsfailed
    report = Report([marker.args[0] for marker in request.node.iter_markers("fault")])
    yield report
    if request.session.testsfailed == failed and not report.noted:
        pytest.fail("the test has taken nothing down")
