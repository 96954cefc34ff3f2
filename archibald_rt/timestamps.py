"""RFC 3339 timestamps: reading those of others, making our own."""

import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

_NANOSECONDS = 1_000_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()
# What a signed 64-bit integer holds: the years 1677 to 2262.
_EARLIEST, _LATEST = -(2**63), 2**63 - 1

# RFC 3339, section 5.6, with its case-insensitive T and Z; the zone is optional only for
# parse_lenient. At most nine decimals, so that an instant is a whole number of nanoseconds.
_PATTERN = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?"
    r"(?:([Zz])|([+-])(\d\d):(\d\d))?",
    re.ASCII,
)


def parse(text: str) -> int:
    """Read an RFC 3339 timestamp with a zone and at most nine decimals.

    Returns nanoseconds since 1970-01-01T00:00:00Z, held within 64 bits: what lies outside
    the years 1677 to 2262 counts as their edge. Raises `ValueError`, whose text says what was
    expected, on anything else. A leap second (``23:59:60``) is read as the second after it.
    """
    match = _PATTERN.fullmatch(text)
    if match is None or (match[8] is None and match[9] is None):
        raise ValueError(
            "expected an RFC 3339 timestamp with a zone and at most nine decimals, "
            "such as 2026-01-31T12:00:00.000Z"
        )
    return _instant(match)


def parse_lenient(text: str) -> int | None:
    """Read the ``lastEventTs`` of a v1 device; None when it can't be read.

    A space before the zone stands for a ``+`` that was not percent-encoded, and a space
    between date and time for the ``T``; a timestamp without a zone is UTC.
    """
    text = text.strip()
    if len(text) > 10 and text[10] == " ":  # noqa: PLR2004 - where the date ends
        text = text[:10] + "T" + text[11:]
    match = _PATTERN.fullmatch(text.replace(" ", "+"))
    if match is None:
        return None
    try:
        return _instant(match)
    except ValueError:
        return None


def _instant(match: re.Match[str]) -> int:
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    days = date(year, month, day).toordinal() - _EPOCH_DAY
    offset = 0
    if match[9] is not None:
        offset_hours, offset_minutes = int(match[10]), int(match[11])
        if offset_hours > 23 or offset_minutes > 59:  # noqa: PLR2004 - a day's and an hour's end
            raise ValueError(f"the zone {match[9]}{match[10]}:{match[11]} does not exist")
        offset = (offset_hours * 60 + offset_minutes) * (60 if match[9] == "+" else -60)
    utc_second = (hour * 3600 + minute * 60 + second - offset) % 86400
    leap = second == 60 and utc_second == 0  # noqa: PLR2004 - as RFC 3339, section 5.7 has it
    if hour > 23 or minute > 59 or (second > 59 and not leap):  # noqa: PLR2004 - the clock's ends
        raise ValueError(f"the time {match[4]}:{match[5]}:{match[6]} does not exist")
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset
    fraction = int((match[7] or "").ljust(9, "0"))
    return max(_EARLIEST, min(_LATEST, seconds * _NANOSECONDS + fraction))


def from_epoch(seconds: float) -> str:
    """Write an instant, in seconds since 1970, as RFC 3339 in UTC with milliseconds."""
    whole = datetime.fromtimestamp(seconds, UTC)
    return whole.strftime("%Y-%m-%dT%H:%M:%S.") + f"{whole.microsecond // 1000:03d}Z"


def from_nanoseconds(instant: int) -> str:
    """Write an instant, in nanoseconds since 1970, as `parse` reads it back."""
    second, fraction = divmod(instant, _NANOSECONDS)
    # Not `fromtimestamp`, which has no dates before 1970 everywhere.
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def _since_boot() -> float:
    # Unlike CLOCK_MONOTONIC this goes on while the machine sleeps.
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Stamper:
    """The server's own stamps: UTC milliseconds, never earlier than the last one given.

    A clock that is set back therefore stands still until it has caught up; with
    `not_before` also across a restart.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last_ms = 0
        self._second = -1
        self._up_to_second = ""

    def __call__(self) -> str:
        """Return the stamp of this moment, such as ``2026-01-31T12:00:00.000Z``."""
        return self.with_instant()[0]

    def with_instant(self) -> tuple[str, int]:
        """Return the stamp of this moment and the same in nanoseconds since 1970."""
        now_ms = self.milliseconds()
        second, ms = divmod(now_ms, 1000)
        if second != self._second:
            # All but the milliseconds is written once a second: 5 % of what a lone emission costs.
            self._second, self._up_to_second = second, from_epoch(second).removesuffix("000Z")
        return f"{self._up_to_second}{ms:03d}Z", now_ms * 1_000_000

    def milliseconds(self) -> int:
        """Return this moment in milliseconds since 1970, as it would be stamped."""
        self._last_ms = max(self._last_ms, int(self._clock() * 1000))
        return self._last_ms

    def not_before(self, ms: int) -> None:
        """Give no stamp earlier than this moment, in milliseconds since 1970, from now on."""
        self._last_ms = max(self._last_ms, ms)


class SteadyClock:
    """The time of day as retention goes by it: it neither jumps nor goes back.

    It begins at the wall clock, or at ``not_before_ms`` where that is later, and goes on by
    the time that really passes. So a wall clock that is set a month ahead doesn't make every
    event a month old, and one that is set back doesn't keep events for ever.
    """

    def __init__(
        self,
        not_before_ms: int = 0,
        *,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = _since_boot,
    ) -> None:
        self._elapsed = elapsed
        self._begin = max(wall(), not_before_ms / 1000) - elapsed()

    def __call__(self) -> int:
        """Return the moment in milliseconds since 1970."""
        return int((self._begin + self._elapsed()) * 1000)
