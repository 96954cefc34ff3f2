"""What a request is called in answers and log lines, so that one can be followed."""

import itertools
import re
import secrets

from tornado.httputil import HTTPHeaders

HEADER = "X-Request-Id"
"""The header by which a caller names a request, and by which every answer does."""

LONGEST = 128
"""How many characters a caller's id may have."""

# No white space, quotes or controls: it stands in log lines and goes back in a header as it is.
_ID = re.compile(rf"[A-Za-z0-9._~:/+=@-]{{1,{LONGEST}}}", re.ASCII)

_TRACE = "Traceparent"

# W3C Trace Context, section 3.2: a later version may have more behind the flags.
_TRACEPARENT = re.compile(
    "(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    "-[0-9a-f]{2}(?P<more>-.*)?",
    re.ASCII,
)


class RequestIds:
    """Names requests: as their callers do, or else by a number of its own.

    Numbers follow a random prefix, so that two processes never give the same id.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def of(self, headers: HTTPHeaders) -> str:
        """Return what a request is called: its `HEADER`, else the trace it belongs to, else anew.

        A header that is given twice, too long or of other characters counts as none.
        """
        if (given := headers.get_list(HEADER)) and len(given) == 1 and _ID.fullmatch(given[0]):
            return given[0]
        # Asked here and not there: most requests have neither, and pay for no call.
        if headers.get_list(_TRACE) and (trace := trace_of(headers)) is not None:
            return trace
        return f"{self._prefix}-{next(self._numbers)}"

    def new(self) -> str:
        """Return an id that no other request has."""
        return f"{self._prefix}-{next(self._numbers)}"


def trace_of(headers: HTTPHeaders) -> str | None:
    """Return the trace a request belongs to by its ``traceparent``; None if that names none."""
    given = headers.get_list(_TRACE)
    if not given or len(given) != 1:
        return None
    match = _TRACEPARENT.fullmatch(given[0])
    if match is None or (match["more"] is not None and match["version"] == "00"):
        return None
    return match["trace"]
