"""The values everything is about: ``events``."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.events import (
    Cursor,
    Emission,
    TransientTypes,
    content_of,
    make_tail,
    timestamp_of,
    user_id_fault,
)

DEFAULT_TRANSIENT = TransientTypes(["*_PROGRESS", "draft:submitted", "draft:delta:applied"])


def test_a_cursor_is_written_as_its_epoch_and_its_seq() -> None:
    assert str(Cursor("abc", 17)) == "abc:17"


@given(st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True), st.integers(0, 10**19 - 1))
def test_every_cursor_is_read_back(epoch: str, seq: int) -> None:
    assert Cursor.parse(str(Cursor(epoch, seq))) == (epoch, seq)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "abc",
        "abc:",
        ":5",
        "abc:-1",
        "abc:+1",
        "abc:01",
        "abc:1_0",
        "abc: 1",
        "abc:1 ",
        "abc:1\n",
        "abc:1.0",
        "abc:٣",
        "a b:1",
        "abc:1:2",
        "é:1",
        "a" * 65 + ":1",
        "abc:" + "1" * 20,
        "earliest",
    ],
)
def test_what_is_no_cursor_is_none(text: str) -> None:
    assert Cursor.parse(text) is None


@given(st.text())
def test_no_text_makes_the_reading_of_a_cursor_fail(text: str) -> None:
    cursor = Cursor.parse(text)
    assert cursor is None or str(cursor) == text


def test_a_tail_is_a_message_without_its_opening_brace() -> None:
    tail = make_tail(b'"T"', b'{"a":1}', "2026-01-01T00:00:00Z")
    assert tail == b'"type":"T","payload":{"a":1},"timestamp":"2026-01-01T00:00:00Z"}'
    assert list(json.loads(b"{" + tail)) == ["type", "payload", "timestamp"]


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b'{"timestamp":"other"}',
        b'","timestamp":"',
        b'"\\",\\"timestamp\\":\\""',
    ],
)
def test_a_tail_is_taken_apart_at_its_own_timestamp_whatever_the_payload_holds(
    payload: bytes,
) -> None:
    tail = make_tail(b'"T"', payload, "2026-01-01T00:00:00.5+01:00")
    assert timestamp_of(tail) == "2026-01-01T00:00:00.5+01:00"
    assert content_of(tail) == b'"type":"T","payload":' + payload


def test_the_content_of_an_emission_is_its_type_and_payload_and_not_when_it_was() -> None:
    first, second = (
        Emission("u", make_tail(b'"T"', b"1", timestamp), timestamp, 0, durable=True)
        for timestamp in ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
    )
    assert first.content == second.content == b'"type":"T","payload":1'


@pytest.mark.parametrize(
    "event_type", ["JOB_PROGRESS", "_PROGRESS", "A\nB_PROGRESS", "draft:submitted"]
)
def test_a_type_that_fits_a_pattern_is_transient(event_type: str) -> None:
    assert event_type in DEFAULT_TRANSIENT


@pytest.mark.parametrize(
    "event_type",
    [
        "JOB_STARTED",
        "job_progress",
        "JOB_PROGRESS_DONE",
        "JOB_PROGRESS\n",
        "xdraft:submitted",
        "draft:submitted:x",
        "",
        None,
        5,
    ],
)
def test_a_type_that_fits_none_is_durable(event_type: object) -> None:
    assert event_type not in DEFAULT_TRANSIENT


def test_without_patterns_everything_is_durable() -> None:
    assert "JOB_PROGRESS" not in TransientTypes([])


def test_patterns_know_classes_and_single_letters() -> None:
    types = TransientTypes(["T[0-9]", "X?"])
    assert "T1" in types
    assert "XY" in types
    assert "TA" not in types
    assert "X" not in types


@pytest.mark.parametrize(
    "text", ["u", " ", "a/b", "*", "\xa0", "\u2028", "e\u0301", "\U0001f600" * 256, "u" * 256]
)
def test_a_user_id_is_any_text_of_1_to_256_characters(text: str) -> None:
    assert user_id_fault(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "expected 1 to 256 characters"),
        ("u" * 257, "expected 1 to 256 characters"),
        ("a\nb", "expected no control characters"),
        ("\x00", "expected no control characters"),
        ("\x7f", "expected no control characters"),
        ("\x9f", "expected no control characters"),
        ("\ud800", "expected no unpaired surrogates"),
        ("u\udfff", "expected no unpaired surrogates"),
    ],
)
def test_what_keeps_a_text_from_being_a_user_id_is_said(text: str, fault: str) -> None:
    assert user_id_fault(text) == fault
