"""Reading RFC 3339 and stamping: ``timestamps``."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.timestamps import (
    Stamper,
    SteadyClock,
    from_epoch,
    from_nanoseconds,
    parse,
    parse_lenient,
)

SECOND = 1_000_000_000
NEW_YEAR = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "after_new_year"),
    [
        ("2026-01-01T00:00:00Z", 0),
        ("2026-01-01t00:00:00z", 0),
        ("2026-01-01T00:00:00.5Z", SECOND // 2),
        ("2026-01-01T00:00:00.000000001Z", 1),
        ("2026-01-01T00:00:00.123456789Z", 123_456_789),
        ("2026-01-01T00:00:00+00:00", 0),
        ("2026-01-01T00:00:00-00:00", 0),
        ("2026-01-01T05:30:00+05:30", 0),
        ("2025-12-31T16:00:00-08:00", 0),
        ("2026-01-01T23:59:00+23:59", 0),
        ("2026-01-02T00:00:00Z", 86400 * SECOND),
    ],
)
def test_a_timestamp_is_read_as_nanoseconds_since_1970(text: str, after_new_year: int) -> None:
    assert parse(text) == NEW_YEAR + after_new_year


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00+01",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T23:59:61Z",
        "2026-02-30T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "26-01-01T00:00:00Z",
        "02026-01-01T00:00:00Z",
        "-2026-01-01T00:00:00Z",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z\n",
        "2026-01-01T00:00:00ZZ",
        "2026-W01-1T00:00:00Z",
        "20260101T000000Z",
        "２０２６-01-01T00:00:00Z",
    ],
)
def test_what_is_no_rfc_3339_timestamp_with_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|exist|day|month"):
        parse(text)


def test_a_leap_year_has_a_29th_of_february() -> None:
    assert parse("2028-03-01T00:00:00Z") - parse("2028-02-29T00:00:00Z") == 86400 * SECOND


@pytest.mark.parametrize(
    "text", ["2026-12-31T23:59:60Z", "2027-01-01T05:29:60+05:30", "2026-12-31T15:59:60-08:00"]
)
def test_a_leap_second_is_read_as_the_second_after_it(text: str) -> None:
    assert parse(text) == parse("2027-01-01T00:00:00Z")


def test_a_leap_second_ends_the_day_in_utc_and_not_elsewhere() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        parse("2026-12-31T23:59:60+01:00")


def test_years_beyond_64_bits_of_nanoseconds_count_as_their_edge() -> None:
    assert parse("0001-01-01T00:00:00Z") == -(2**63)
    assert parse("9999-12-31T23:59:59.999999999Z") == 2**63 - 1


@given(
    st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)),  # noqa: DTZ001 - the zone is the next
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_every_timestamp_of_a_datetime_is_the_same_instant(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since_1970 = aware - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse(aware.isoformat()) == (since_1970 // timedelta(microseconds=1)) * 1000


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T01:00:00 01:00",
        "2026-01-01T01:00:00+01:00",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01 01:00:00 01:00",
        "  2026-01-01T00:00:00Z ",
        "2025-12-31T23:00:00-01:00",
    ],
)
def test_a_v1_device_is_understood_where_a_plus_or_the_zone_is_missing(text: str) -> None:
    assert parse_lenient(text) == NEW_YEAR


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "yesterday",
        "1767225600",
        "2026-01-01",
        "2026-02-30T00:00:00",
        "2026-01-01T25:00:00",
    ],
)
def test_what_a_v1_device_can_not_mean_is_none(text: str) -> None:
    assert parse_lenient(text) is None


@given(st.text())
def test_whatever_a_v1_device_sends_is_an_instant_or_none(text: str) -> None:
    instant = parse_lenient(text)
    assert instant is None or -(2**63) <= instant < 2**63


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_767_225_600.0079, "2026-01-01T00:00:00.007Z"),
        (253402300799, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_an_instant_is_written_in_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert from_epoch(seconds) == text


def test_a_stamp_is_of_this_moment() -> None:
    before = datetime.now(UTC)
    text, instant = Stamper().with_instant()
    assert parse(text) == instant
    stamped = datetime.fromisoformat(text)
    assert before - timedelta(milliseconds=1) < stamped <= datetime.now(UTC)


def test_a_stamp_is_never_earlier_than_the_last_one_when_the_clock_is_set_back() -> None:
    readings = iter([1000.0, 1000.0009, 400.0, 999.999, 1000.5])
    stamp = Stamper(lambda: next(readings))
    assert [stamp() for _ in range(5)] == [
        *(["1970-01-01T00:16:40.000Z"] * 4),
        "1970-01-01T00:16:40.500Z",
    ]


def test_a_stamp_is_never_before_what_it_was_told_not_to_be_before() -> None:
    readings = iter([1000.0, 3000.0])
    stamp = Stamper(lambda: next(readings))
    stamp.not_before(2_000_000)
    assert stamp.milliseconds() == 2_000_000
    assert stamp() == "1970-01-01T00:50:00.000Z"


def test_a_steady_clock_goes_by_what_passes_and_not_by_the_wall_clock() -> None:
    wall, elapsed = iter([1000.0]), iter([50.0, 50.5, 51.25])
    clock = SteadyClock(wall=lambda: next(wall), elapsed=lambda: next(elapsed))
    assert [clock(), clock()] == [1_000_500, 1_001_250]


def test_a_steady_clock_begins_no_earlier_than_it_is_told_to() -> None:
    clock = SteadyClock(7_000_000, wall=lambda: 1000.0, elapsed=lambda: 50.0)
    assert clock() == 7_000_000


@given(st.lists(st.floats(0, 4e9), min_size=1))
def test_stamps_never_fall_and_each_says_its_own_instant(readings: list[float]) -> None:
    clock = iter(readings)
    stamp = Stamper(lambda: next(clock))
    stamps = [stamp.with_instant() for _ in readings]
    assert [instant for _, instant in stamps] == sorted(instant for _, instant in stamps)
    for text, instant in stamps:
        assert text == "" or parse(text) == instant


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_instant_is_read_back_as_it_was_written(instant: int) -> None:
    assert parse(from_nanoseconds(instant)) == instant


def test_an_instant_is_written_with_nine_decimals_in_utc() -> None:
    assert from_nanoseconds(NEW_YEAR + 5) == "2026-01-01T00:00:00.000000005Z"
    assert from_nanoseconds(-1) == "1969-12-31T23:59:59.999999999Z"
