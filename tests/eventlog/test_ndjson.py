"""The lines of an exported log: ``eventlog.ndjson``."""

import json
from typing import Any

import pytest

from archibald_rt.errors import EmissionError
from archibald_rt.eventlog import ndjson
from archibald_rt.eventlog.ndjson import Header, Line
from archibald_rt.events import make_tail
from archibald_rt.timestamps import parse

STAMP = "2026-01-01T00:00:00.5+01:00"
TAIL = make_tail(b'"JOB_DONE"', b'{"n": 1.00}', STAMP)


def line(user: bytes = b"ada", **fields: Any) -> Line:
    return Line(**{"seq": 3, "user": user, "committed": 5, "key": None, "tail": TAIL, **fields})


def header(**fields: Any) -> bytes:
    members = {"format": "archibald-rt log", "version": 1, "epoch": "e", "head": 9, "last": 7}
    return json.dumps({**members, "watermarks": [], **fields}).encode()


def event(**fields: Any) -> bytes:
    members = {"seq": 3, "userId": "ada", "committed": 5, "type": "T", "payload": 1}
    return json.dumps({**members, "timestamp": STAMP, **fields}).encode()


def test_the_first_line_is_about_the_log() -> None:
    written = ndjson.write_header(Header("af45", 9, 7, [(b"", 3), ("é".encode(), 4)]))
    assert written.decode() == (
        '{"format":"archibald-rt log","version":1,"epoch":"af45","head":9,"last":7,'
        '"watermarks":[[null,3],["é",4]]}\n'
    )
    assert ndjson.read_header(written) == Header("af45", 9, 7, [(b"", 3), ("é".encode(), 4)])


def test_an_event_s_line_ends_with_the_bytes_that_are_stored() -> None:
    assert ndjson.write_event(line()) == (
        b'{"seq":3,"userId":"ada","committed":5,"type":"JOB_DONE","payload":{"n": 1.00},'
        b'"timestamp":"2026-01-01T00:00:00.5+01:00"}\n'
    )
    broadcast = ndjson.write_event(line(b"", key=b'k"', watermarks=[(b"bob", 2)]))
    assert broadcast.startswith(
        b'{"seq":3,"userId":null,"committed":5,"key":"k\\"","watermarks":[["bob",2]],"type":'
    )
    assert json.loads(broadcast)["payload"] == {"n": 1}


@pytest.mark.parametrize(
    "one",
    [
        line(),
        line(b""),
        line("\U0001f980 \u2028 \"'\\".encode(), key="k\u00e9".encode()),
        line(watermarks=[(b"", 1), (b"ada", 9)]),
        line(tail=make_tail(b'"a\\"b"', b"[ 1e400, 12345678901234567890 ,null]", STAMP)),
    ],
)
def test_what_is_written_is_read_again(one: Line) -> None:
    instant = parse(STAMP)
    read = ndjson.read_event(ndjson.write_event(one), 9)
    assert read == line(
        one.user, key=one.key, tail=one.tail, watermarks=read.watermarks, instant=instant
    )
    assert list(read.watermarks) == list(one.watermarks)


def test_a_line_by_another_hand_is_read_as_an_emission_is() -> None:
    data = (
        b' {"timestamp": "2026-01-01T00:00:00Z", "payload" : [1,\r2],\t"type":"\\u0041",'
        b'"committed":5,"userId":"u","seq":1}\r\n'
    )
    read = ndjson.read_event(data, 1)
    assert read.tail == b'"type":"A","payload":[1, 2],"timestamp":"2026-01-01T00:00:00Z"}'


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"seq": 0}, "seq: Expected int >= 1"),
        ({"seq": -1}, "seq: Expected int >= 1"),
        ({"seq": "3"}, "seq: Expected int, got str"),
        ({"seq": 3.5}, "seq: Expected int, got float"),
        ({"seq": True}, "seq: Expected int, got bool"),
        ({"seq": 10}, "seq: expected one not above 9"),
        ({"seq": 2**70}, "seq: "),
        ({"userId": ""}, "userId: expected 1 to 256 characters"),
        ({"userId": "x" * 257}, "userId: expected 1 to 256 characters"),
        ({"userId": "a\nb"}, "userId: expected no control characters"),
        ({"userId": 7}, "userId: Expected str | null, got int"),
        ({"committed": -1}, "committed: Expected int >= 0"),
        ({"committed": 10**15}, "committed: Expected int <= 253402300799999"),
        ({"committed": None}, "committed: Expected int, got null"),
        ({"key": ""}, "key: Expected str of length >= 1"),
        ({"key": None}, "key: Expected str, got null"),
        ({"key": "x" * 201}, "key: Expected str of length <= 200"),
        ({"key": "\u0085"}, "key: expected no control characters"),
        ({"type": "rt.gap"}, "type: types that begin with rt. are reserved"),
        ({"type": ""}, "type: Expected str of length >= 1"),
        ({"type": "x" * 129}, "type: Expected str of length <= 128"),
        ({"type": "a\tb"}, "type: expected no control characters"),
        ({"timestamp": "now"}, "timestamp: expected an RFC 3339 timestamp"),
        ({"timestamp": None}, "timestamp: Expected str, got null"),
        ({"durable": True}, "durable: Object contains unknown field durable"),
        ({"conflate": "x"}, "conflate: Object contains unknown field conflate"),
        ({"watermarks": {}}, "watermarks: Expected array, got object"),
        ({"watermarks": [["u", 0]]}, "watermarks[0][1]: Expected int >= 1"),
        ({"watermarks": [["u", 10]]}, "watermarks[0]: expected none above 9"),
        ({"watermarks": [["u", 1], ["u", 2]]}, "watermarks[1]: this user stands in the list twice"),
        ({"watermarks": [["\x00", 1]]}, "watermarks[0]: expected no control characters"),
    ],
    ids=str,
)
def test_an_event_that_breaks_a_rule_is_refused_and_its_field_named(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(EmissionError) as caught:
        ndjson.read_event(event(**fields), 9)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["seq", "userId", "committed", "type", "payload", "timestamp"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    members = json.loads(event())
    del members[name]
    with pytest.raises(EmissionError, match=f"^{name}: "):
        ndjson.read_event(json.dumps(members).encode(), 9)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n", "unreadable: expected JSON, it is empty"),
        (b"{", "unreadable: Input data was truncated"),
        (b"[]", "Expected object, got array"),
        (event()[:-1] + b"} x", "unreadable: JSON is malformed"),
        (event(payload="X").replace(b"X", b"\xff"), "unreadable: not UTF-8, byte "),
        (event(payload="X").replace(b"X", b"\\ud800"), "payload: holds an unpaired surrogate"),
        (event(payload=7).replace(b"7", b"[" * 501 + b"]" * 501), "payload: nested deeper"),
        (event(payload=7).replace(b"7", b"[" * 100_000), "unreadable: nested deeper"),
    ],
)
def test_what_is_no_event_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(EmissionError) as caught:
        ndjson.read_event(data, 9)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "another"}, 'format: expected "archibald-rt log"'),
        ({"version": 2}, "version: expected 1; a later release wrote it"),
        ({"epoch": ""}, "epoch: "),
        ({"epoch": "a:b"}, "epoch: "),
        ({"head": -1}, "head: Expected int >= 0"),
        ({"head": 2**62 + 1}, "head: Expected int <= "),
        ({"last": 10}, "last: expected one not above head"),
        ({"watermarks": None}, "watermarks: Expected array, got null"),
        ({"watermarks": [[1, 1]]}, "watermarks[0][0]: Expected str | null, got int"),
        ({"watermarks": [["u", 10]]}, "watermarks[0]: expected none above 9"),
        ({"events": 5}, "events: Object contains unknown field events"),
    ],
    ids=str,
)
def test_a_first_line_that_breaks_a_rule_is_refused_and_its_field_named(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(EmissionError) as caught:
        ndjson.read_header(header(**fields))
    assert str(caught.value).startswith(said)
