"""The head of an answer, as bytes."""

import pytest
from tornado.httputil import HTTPHeaders, ResponseStartLine

from archibald_rt.http1.answers import head_of

OK = ResponseStartLine("HTTP/1.1", 200, "OK")


def test_a_head_has_a_line_for_each_header_and_one_for_the_date() -> None:
    headers = HTTPHeaders({"X-Request-Id": "7"})
    headers.add("Vary", "Origin")
    headers.add("Vary", "Accept")
    rest = b"X-Request-Id: 7\r\nVary: Origin\r\nVary: Accept\r\n\r\n"
    assert head_of(OK, headers) == b"HTTP/1.1 200 OK\r\n" + rest
    dated = head_of(OK, headers, "Mon, 23 Nov 2026 03:10:16 GMT")
    assert dated == b"HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 03:10:16 GMT\r\n" + rest


@pytest.mark.parametrize("date", ["", "Mon, 23 Nov 2026 03:10:16 GMT"])
@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_line_break_within_a_header_is_refused(end: str, date: str) -> None:
    headers = HTTPHeaders()
    headers["X-Told"] = f"by a caller{end}Set-Cookie: mine"
    with pytest.raises(ValueError, match="line break"):
        head_of(OK, headers, date)
