"""Requests, read: ``http1.requests``."""

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.http1.requests import (
    END,
    MAX_HEAD,
    MAX_HEADERS,
    Breach,
    Head,
    Part,
    RequestReader,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"


def read(*pieces: bytes, max_body: int = 0) -> list[Part]:
    reader = RequestReader(max_body=max_body)
    for piece in pieces:
        reader.feed(piece)
    return list(reader.parts)


def head(part: Part) -> Head:
    assert isinstance(part, Head)
    return part


def breach(data: bytes, *, max_body: int = 0) -> Breach:
    """Return what ends the reading of some bytes."""
    last = read(data, max_body=max_body)[-1]
    assert isinstance(last, Breach)
    assert "\n" not in last.detail
    return last


def plain(parts: list[Part]) -> list[object]:
    """Return what can be compared of parts: pieces of a body joined."""
    told: list[object] = []
    for part in parts:
        if isinstance(part, Head):
            told.append((part.start_line, list(part.headers.get_all()), part.keep_alive))
        elif isinstance(part, bytes) and told and isinstance(told[-1], bytes):
            told[-1] += part
        else:
            told.append(part)
    return told


def test_a_request_is_read_into_its_head_its_body_and_its_end() -> None:
    first, body, end = read(POST)
    assert head(first).start_line == ("POST", "/a", "HTTP/1.1")
    assert list(head(first).headers.get_all()) == [("Host", "x"), ("Content-Length", "3")]
    assert (body, end) == (b"abc", END)


def test_requests_follow_one_another() -> None:
    parts = read(GET + POST + GET)
    assert [part for part in parts if not isinstance(part, Head)] == [END, b"abc", END, END]


@given(
    st.lists(st.integers(1, 200)), st.sampled_from([GET, POST, CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"])
)
def test_it_makes_no_difference_in_which_pieces_a_request_comes(
    cuts: list[int], request: bytes
) -> None:
    data, pieces = request * 3, list[bytes]()
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    assert plain(read(*pieces, data)) == plain(read(request * 3))


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    data = b"GET / HTTP/1.1\r\nHost:  x \t\r\nEmpty:\r\n\r\n"
    assert dict(head(read(data)[0]).headers) == {"Host": "x", "Empty": ""}


def test_a_header_that_comes_twice_has_both_values() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\na: 1\r\nA: 2\r\n\r\n"
    assert head(read(data)[0]).headers.get_list("A") == ["1", "2"]


@pytest.mark.parametrize(
    ("line", "extra", "stays"),
    [
        (b"HTTP/1.1", b"", True),
        (b"HTTP/1.1", b"Connection: close\r\n", False),
        (b"HTTP/1.0", b"", False),
        (b"HTTP/1.0", b"Connection: keep-alive\r\n", True),
    ],
)
def test_a_head_says_whether_another_request_may_follow(
    line: bytes, extra: bytes, *, stays: bool
) -> None:
    data = b"GET / %b\r\nHost: x\r\n%b\r\n" % (line, extra)
    assert head(read(data)[0]).keep_alive is stays


def test_a_body_in_chunks_is_joined_without_what_frames_it() -> None:
    data = CHUNKED + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: dropped\r\n\r\n"
    first, *body, end = plain(read(data))
    assert (body, end) == ([b"abcde"], END)
    assert "Trailer" not in str(first)


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\x00y\r\n\r\n",
        b"GET / HTTP/1.1\r\nNo colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"3\r\nabcd\r\n",
        CHUNKED + b"-3\r\nabc\r\n",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(data: bytes) -> None:
    assert breach(data).status == HTTPStatus.BAD_REQUEST


def test_what_is_not_ascii_in_a_path_has_to_be_encoded() -> None:
    refused = breach("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (refused.status, refused.detail.partition(":")[0]) == (HTTPStatus.BAD_REQUEST, "path")


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
def test_another_version_is_not_spoken(version: bytes) -> None:
    refused = breach(b"GET / HTTP/%b\r\nHost: x\r\n\r\n" % version)
    assert refused.status == HTTPStatus.HTTP_VERSION_NOT_SUPPORTED


def test_another_coding_than_chunks_is_not_read() -> None:
    data = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
    assert breach(data).status == HTTPStatus.NOT_IMPLEMENTED


def test_what_follows_a_last_request_is_refused_and_the_request_is_not() -> None:
    data = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    first, end, last = read(data + GET)
    assert isinstance(first, Head)
    assert (end, isinstance(last, Breach)) == (END, True)


@pytest.mark.parametrize(
    "endless",
    [
        (b"GET /", b"a" * 1000),
        (b"GET / HTTP/1.1\r\nA: ", b"a" * 1000),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEADERS - 1) + b"C: ", b"a" * 1000),
        (CHUNKED + b"3;", b"a" * 1000),
        (CHUNKED + b"0\r\n", b"Trailer: x\r\n"),
        (CHUNKED + b"0\r\nTrailer: ", b"x" * 1000),
    ],
    ids=["target", "header", "last header", "extension", "trailers", "trailer"],
)
def test_what_frames_a_body_has_a_bound(endless: tuple[bytes, bytes]) -> None:
    begin, more = endless
    reader = RequestReader(max_body=0)
    reader.feed(begin)
    for _ in range(2 * MAX_HEAD // len(more)):
        reader.feed(more)
    last = reader.parts[-1]
    assert isinstance(last, Breach)
    assert last.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_as_many_headers_as_may_be_are_read_and_not_one_more() -> None:
    lines = b"".join(b"A%d: x\r\n" % number for number in range(MAX_HEADERS))
    assert len(head(read(b"GET / HTTP/1.1\r\n%b\r\n" % lines)[0]).headers) == MAX_HEADERS
    refused = breach(b"GET / HTTP/1.1\r\n%bB: x\r\n\r\n" % lines)
    assert refused.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


@pytest.mark.parametrize("data", [POST, CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"])
def test_a_body_has_a_bound(data: bytes) -> None:
    assert plain(read(data, max_body=3))[-1] is END
    assert breach(data, max_body=2).status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_bound_is_for_each_body() -> None:
    assert plain(read(POST * 3, max_body=3))[-1] is END


UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_what_comes_behind_the_wish_for_another_protocol_is_kept_for_it() -> None:
    reader = RequestReader(max_body=0)
    reader.feed(UPGRADE + b"\x81\x82")
    reader.feed(b"more")
    assert reader.rest == b"\x81\x82more"
    assert [type(part) for part in reader.parts] == [Head, type(END)]


def test_a_protocol_that_is_not_spoken_does_no_harm_to_the_next_request() -> None:
    reader = RequestReader(max_body=0)
    reader.feed(UPGRADE.replace(b"websocket", b"h2c") + GET[:10])
    reader.no_upgrade()
    reader.feed(GET[10:])
    heads = [part for part in reader.parts if isinstance(part, Head)]
    assert [each.start_line.path for each in heads] == ["/", "/a?b=c"]
    assert reader.parts[-1] is END


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 41\r\n", b"GET /hidden HTTP/1.1\r\nHost: x\r\nA: bcdef\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n"),
    ],
    ids=["length", "chunks"],
)
@given(st.lists(st.integers(1, 60), max_size=6))
def test_a_body_behind_the_wish_for_another_protocol_is_no_request(
    framing: bytes, body: bytes, cuts: list[int]
) -> None:
    post = b"POST /a HTTP/1.1\r\nHost: x\r\n" + H2C + framing + b"\r\n" + body
    data, pieces = post + GET, list[bytes]()
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    reader = RequestReader(max_body=0)
    for piece in (*pieces, data):
        reader.feed(piece)
        # As when it is answered before the next one is looked at.
        reader.no_upgrade()
    told = plain(list(reader.parts))
    assert [each for each in told if not isinstance(each, tuple)] == [
        body if framing.startswith(b"Content") else b"abc",
        END,
        END,
    ]
    heads = [part for part in reader.parts if isinstance(part, Head)]
    assert [each.start_line.path for each in heads] == ["/a", "/a?b=c"]
    assert "Trailer" not in heads[1].headers


def test_a_body_behind_the_wish_for_another_protocol_has_its_bound() -> None:
    post = b"POST /a HTTP/1.1\r\nHost: x\r\n" + H2C + b"Content-Length: 3\r\n\r\nabc"
    assert breach(post, max_body=2).status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_handshake_has_no_body() -> None:
    data = UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello")
    assert breach(data).status == HTTPStatus.BAD_REQUEST


def test_a_reader_knows_whether_a_request_has_begun() -> None:
    reader = RequestReader(max_body=0)
    told = [reader.begun]
    for piece in (b"GET", GET[3:]):
        reader.feed(piece)
        told.append(reader.begun)
    assert told == [False, True, False]


def test_nothing_is_read_behind_a_breach_or_a_close() -> None:
    reader = RequestReader(max_body=0)
    reader.feed(b"nonsense\r\n\r\n")
    reader.feed(GET)
    assert len(reader.parts) == 1
    closed = RequestReader(max_body=0)
    closed.close()
    closed.close()
    closed.feed(GET)
    assert not closed.parts
