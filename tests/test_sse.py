"""The format of Server-Sent Events: ``sse``, read back as the standard says."""

import pytest

from archibald_rt.sse import COMMENT, event
from eventstreams import EventReader, Read


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
