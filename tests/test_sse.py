"""Server-Sent Events: ``sse``, read back as the standard says."""

import json

import pytest

from archibald_rt.events import Event
from archibald_rt.protocol import FRAMING, V2, Frames
from archibald_rt.sse import COMMENT, RETRY, Sse, event
from archibald_rt.timestamps import Stamper
from eventstreams import EventReader, Read

TAIL = b'"type":"T","payload":1.00,"timestamp":"2026-01-01T00:00:00+01:00"}'


def read(data: bytes) -> EventReader:
    reader = EventReader()
    reader.feed(data)
    return reader


def test_an_event_is_read_as_it_was_written() -> None:
    data = '{"type":"ü\u2028","payload":": x"}'
    reader = read(event(data.encode(), kind="rt.live", last_id="abc:7", retry=2000))
    assert list(reader.events) == [Read("rt.live", data, "abc:7")]
    assert reader.retry == 2000


def test_without_a_type_it_is_a_message_and_without_an_id_the_one_before_stays() -> None:
    reader = read(event(b"1", last_id="abc:7") + event(b"2") + event(b"3", last_id=""))
    assert list(reader.events) == [
        Read("message", "1", "abc:7"),
        Read("message", "2", "abc:7"),
        Read("message", "3", ""),
    ]
    assert reader.retry is None


def test_data_that_begins_with_a_space_keeps_it() -> None:
    assert read(event(b" 1")).events[0].data == " 1"


def test_a_comment_is_no_event_and_changes_nothing() -> None:
    reader = read(event(b"1", last_id="abc:7") + COMMENT + event(b"2"))
    assert [each.last_id for each in reader.events] == ["abc:7", "abc:7"]
    assert len(reader.comments) == 1


@pytest.mark.parametrize("broken", ["a\nb", "a\r", "\r\n", "\0"])
def test_a_line_break_within_a_line_is_refused_wherever_it_stands(broken: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        event(broken.encode())
    with pytest.raises(ValueError, match="line break"):
        event(b"1", kind=broken)
    with pytest.raises(ValueError, match="line break"):
        event(b"1", last_id=broken)


# The dialect


def dialect(epoch: str = "abc") -> Sse:
    return Sse(epoch, Stamper(lambda: 1_767_225_600))


def body_of(frame: bytes) -> str:
    """Take the header off a short frame."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :].decode()


def test_what_says_where_a_device_stands_has_an_id_and_all_else_has_none() -> None:
    sse = dialect()
    for data, kind, last_id in (
        (sse.welcome(7, "c", 15, replay=True), "rt.welcome", "abc:7"),
        (sse.gap(7, "other:1", None, "epoch"), "rt.gap", "abc:7"),
        (sse.gap(7, "abc:7", 9, "expired"), "rt.gap", "abc:7"),
        (sse.live(7, 0), "rt.live", "abc:7"),
        (sse.durable(8, TAIL, 7), "message", "abc:8"),
        (sse.transient(TAIL), "message", ""),
        (sse.reconnect(1234), "rt.reconnect", ""),
        (sse.close(4001, "Token expired"), "rt.close", ""),
    ):
        assert (b"id: " in data.partition(b"data: ")[0]) is bool(last_id)
        reader = read(data)
        assert reader.last_id == last_id
        (got,) = reader.events
        assert got.kind == kind
        assert json.loads(got.data)["type"] == (kind if kind != "message" else "T")


def test_the_data_is_what_v2_says() -> None:
    sse, v2 = dialect(), V2("abc", Stamper(lambda: 1_767_225_600))
    for ours, theirs in (
        (sse.welcome(7, "c", 15, replay=True), v2.welcome(7, "c", 15, replay=True)),
        (sse.gap(7, "x\r\n", None, "epoch"), v2.gap(7, "x\r\n", None, "epoch")),
        (sse.live(7, 3), v2.live(7, 3)),
        (sse.reconnect(1234), v2.reconnect(1234)),
        (sse.durable(8, TAIL, 7), v2.durable(8, TAIL, 7)),
        (sse.transient(TAIL), v2.transient(TAIL)),
    ):
        assert read(ours).events[0].data == body_of(theirs)
    assert sse.auth(None) == b""


def test_several_events_are_those_one_by_one() -> None:
    sse, events = dialect(), [Event(8, TAIL), Event(10, TAIL), Event(100, TAIL)]
    one_by_one = [sse.durable(8, TAIL, 7), sse.durable(10, TAIL, 8), sse.durable(100, TAIL, 10)]
    assert sse.durables(events, 7) == b"".join(one_by_one)
    assert sse.durables([], 7) == b""


def test_only_what_is_to_change_it_says_when_to_come_back() -> None:
    sse = dialect()
    for data, retry in (
        (sse.welcome(7, "c", 15, replay=True), RETRY),
        (sse.live(7, 0), None),
        (sse.reconnect(1234), 1234),
        (sse.close(4001, "Token expired"), None),
        (sse.close(1013, "Server full", retry=9000), 9000),
    ):
        assert read(data).retry == retry


def test_why_a_stream_ends_is_told_in_full() -> None:
    assert json.loads(read(dialect().close(4001, "Token expired")).events[0].data) == {
        "type": "rt.close",
        "payload": {"code": 4001, "reason": "Token expired"},
        "timestamp": "2026-01-01T00:00:00.000Z",
    }


def test_it_shares_no_event_with_another_dialect_and_each_with_its_own() -> None:
    frames, sse, v2 = Frames(TAIL), dialect(), V2("abc", Stamper())
    assert frames.durable(v2, 8, 7) == v2.durable(8, TAIL, 7)
    assert frames.durable(sse, 8, 7) == sse.durable(8, TAIL, 7)
    assert frames.durable(sse, 8, 7) is frames.durable(dialect(), 8, 7)
    assert frames.transient(v2) == v2.transient(TAIL)
    assert frames.transient(sse) == sse.transient(TAIL)


def test_no_event_has_more_besides_its_tail_than_is_reckoned_with() -> None:
    sse, last = dialect("0123456789ab"), 2**63 - 1
    assert len(sse.durable(last, TAIL, last - 1)) - len(TAIL) <= FRAMING
    assert len(sse.transient(TAIL)) - len(TAIL) <= FRAMING
