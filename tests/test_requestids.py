"""What requests are called: ``requestids``."""

import pytest
from tornado.httputil import HTTPHeaders

from archibald_rt.requestids import LONGEST, RequestIds, trace_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def headers(*pairs: tuple[str, str]) -> HTTPHeaders:
    made = HTTPHeaders()
    for name, value in pairs:
        made.add(name, value)
    return made


@pytest.mark.parametrize("given", ["a", "req-7_8.9~x:/+=@", "x" * LONGEST, "7" * 32])
def test_a_request_is_called_what_its_caller_calls_it(given: str) -> None:
    assert RequestIds().of(headers(("X-Request-Id", given))) == given
    assert RequestIds().of(headers(("x-request-id", given), ("traceparent", PARENT))) == given


@pytest.mark.parametrize(
    "given", ["", "x" * (LONGEST + 1), "a b", 'a"b', "a\tb", "ä", "a,b", "a;b"]
)
def test_an_id_that_does_not_fit_into_a_line_is_replaced(given: str) -> None:
    ids = RequestIds()
    made = ids.of(headers(("X-Request-Id", given)))
    assert given not in {made, ""} or given == ""
    assert RequestIds().of(headers(("X-Request-Id", made))) == made


def test_an_id_that_is_given_twice_counts_as_none() -> None:
    assert RequestIds().of(headers(("X-Request-Id", "a"), ("X-Request-Id", "b"))) not in {
        *("a", "b", "a,b"),
    }


def test_made_ids_are_unique_in_a_process_and_between_processes() -> None:
    one, other = RequestIds(), RequestIds()
    made = [ids.new() for ids in (one, other) for _ in range(100)]
    assert len(set(made)) == 200


@pytest.mark.parametrize("given", [PARENT, f"cc-{TRACE}-00f067aa0ba902b7-00-what-comes-later"])
def test_without_an_id_of_its_own_a_request_is_called_by_its_trace(given: str) -> None:
    assert RequestIds().of(headers(("Traceparent", given))) == TRACE
    assert trace_of(headers(("traceparent", given))) == TRACE


@pytest.mark.parametrize(
    "given",
    [
        "",
        TRACE,
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE}-00f067aa0ba902b7",
        f"00-{TRACE}-00f067aa0ba902b7-01x",
    ],
)
def test_a_traceparent_that_is_none_names_no_trace(given: str) -> None:
    assert trace_of(headers(("traceparent", given))) is None
    assert TRACE not in RequestIds().of(headers(("traceparent", given)))


def test_two_traceparents_name_no_trace() -> None:
    assert trace_of(headers(("traceparent", PARENT), ("traceparent", PARENT))) is None
