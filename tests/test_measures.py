"""Values counted by size: ``measures``."""

import bisect

from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.measures import COUNTS, SECONDS, Histogram


@given(values=st.lists(st.floats(0, 100)))
def test_a_histogram_counts_for_each_bound_what_is_not_above_it(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    pairs = dict(histogram.cumulative())
    ordered = sorted(values)
    for bound in SECONDS:
        assert pairs[str(bound)] == bisect.bisect_right(ordered, bound)
    assert pairs["+Inf"] == len(values)
    assert histogram.total == sum(values)


def test_bounds_rise() -> None:
    for bounds in (SECONDS, COUNTS):
        assert list(bounds) == sorted(set(bounds))
