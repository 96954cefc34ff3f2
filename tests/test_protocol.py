"""What devices are written: ``protocol``."""

import json
from typing import Any

import pytest

from archibald_rt.events import Cursor, Event
from archibald_rt.protocol import CLOSE, FRAMING, PING, PONG, TEXT, V1, V2, Dialect, Frames, frame
from archibald_rt.timestamps import Stamper

TAIL = b'"type":"T","payload":1.00,"timestamp":"2026-01-01T00:00:00+01:00"}'
STAMP = "2026-01-01T00:00:00.000Z"


def v2(epoch: str = "abc") -> V2:
    return V2(epoch, Stamper(lambda: 1_767_225_600))


def body_of(data: bytes) -> bytes:
    """Take the frame off a text that is no longer than it says."""
    assert data[0] == 0x81
    head = {126: 4, 127: 10}.get(data[1], 2)
    length = data[1] if head == 2 else int.from_bytes(data[2:head])
    assert len(data) == head + length
    return data[head:]


def message(data: bytes) -> Any:
    return json.loads(body_of(data))


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x81\x00"),
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_frame_says_its_length_in_the_shortest_form(length: int, head: bytes) -> None:
    assert frame(TEXT, b"x" * length) == head + b"x" * length


def test_frames_are_final_and_unmasked_whatever_they_are() -> None:
    assert [frame(opcode, b"")[0] for opcode in (TEXT, CLOSE, PING, PONG)] == [
        0x81,
        0x88,
        0x89,
        0x8A,
    ]


def test_v1_writes_an_event_in_exactly_three_keys() -> None:
    for data in (V1().durable(7, TAIL, 6), V1().transient(TAIL)):
        assert body_of(data) == b"{" + TAIL
        assert list(message(data)) == ["type", "payload", "timestamp"]


def test_v1_has_no_messages_of_the_server() -> None:
    dialect = V1()
    assert dialect.welcome(1, "c", 30.0, replay=True) == b""
    assert dialect.gap(1, "abc:1", 5, "expired") == b""
    assert dialect.live(1, 0) == b""
    assert dialect.auth(None) == b""
    assert dialect.reconnect(100) == b""


def test_v2_writes_a_durable_event_with_its_cursor_and_the_one_before() -> None:
    assert body_of(v2().durable(17, TAIL, 12)) == b'{"id":"abc:17","prev":"abc:12",' + TAIL


@pytest.mark.parametrize("dialect", [V1(), v2()])
def test_events_written_together_are_as_they_are_one_by_one(dialect: Dialect) -> None:
    # The three forms of a frame's length, and seqs of several lengths.
    sizes = [1, 1, 40, 80, 120, 120, 65_400, 65_536, 70_000, 1]
    events = [Event(seq, b"x" * size) for seq, size in zip(range(5, 1000, 97), sizes, strict=False)]
    written, prev = b"", 3
    for event in events:
        written += dialect.durable(event.seq, event.tail, prev)
        prev = event.seq
    assert dialect.durables(events, 3) == written
    assert dialect.durables([], 3) == b""


def test_v2_writes_a_transient_event_without_an_id() -> None:
    assert body_of(v2().transient(TAIL)) == b"{" + TAIL


def test_v2_welcomes() -> None:
    assert message(v2().welcome(5, "conn", 12.3456, replay=True)) == {
        "type": "rt.welcome",
        "payload": {
            "cursor": "abc:5",
            "connection": "conn",
            "heartbeatMs": 12346,
            "replay": True,
        },
        "timestamp": STAMP,
    }
    assert message(v2().welcome(0, "c", 0, replay=False))["payload"]["replay"] is False


def test_v2_says_that_events_are_missing() -> None:
    assert message(v2().gap(2, "abc:2", 9, "expired")) == {
        "type": "rt.gap",
        "payload": {"requested": "abc:2", "missingThrough": "abc:9", "reason": "expired"},
        "timestamp": STAMP,
    }
    foreign = message(v2().gap(0, '"\n\\', None, "epoch"))
    assert foreign["payload"] == {"requested": '"\n\\', "missingThrough": None, "reason": "epoch"}


def test_v2_says_that_it_is_live() -> None:
    assert message(v2().live(9, 3)) == {
        "type": "rt.live",
        "payload": {"cursor": "abc:9", "replayed": 3},
        "timestamp": STAMP,
    }


def test_v2_says_until_when_a_new_token_counts() -> None:
    assert message(v2().auth(None))["payload"] == {"expires": None}
    assert message(v2().auth(1_767_225_600.5)) == {
        "type": "rt.auth",
        "payload": {"expires": "2026-01-01T00:00:00.500Z"},
        "timestamp": STAMP,
    }


def test_v2_says_when_to_come_back() -> None:
    assert message(v2().reconnect(1234)) == {
        "type": "rt.reconnect",
        "payload": {"afterMs": 1234},
        "timestamp": STAMP,
    }


def test_every_message_of_v2_is_on_one_line() -> None:
    dialect = v2()
    for data in (
        dialect.welcome(1, "a\nb", 1, replay=True),
        dialect.gap(1, "a\r\nb", 1, "ahead"),
        dialect.live(1, 1),
    ):
        assert b"\n" not in body_of(data)
        assert b"\r" not in body_of(data)


def test_an_event_is_encoded_once_for_all_devices_of_a_kind() -> None:
    frames, first, second = Frames(TAIL), v2(), v2()
    assert frames.durable(first, 7, 6) is frames.durable(second, 7, 6)
    assert frames.transient(first) is frames.transient(second)
    assert frames.durable(V1(), 7, 6) is frames.durable(V1(), 7, 5)


def test_devices_that_stand_elsewhere_or_speak_another_dialect_share_nothing_wrong() -> None:
    frames = Frames(TAIL)
    dialects: list[Dialect] = [v2(), V1()]
    for _ in range(2):
        for dialect in dialects:
            for prev in (-1, 0, 5, 6):
                assert frames.durable(dialect, 7, prev) == dialect.durable(7, TAIL, prev)
    transient = Frames(TAIL)
    for dialect in dialects:
        assert transient.transient(dialect) == dialect.transient(TAIL)


def test_frames_know_how_large_their_event_is() -> None:
    assert Frames(TAIL).size == len(TAIL)


@pytest.mark.parametrize("size", [100, 200, 70_000])
def test_no_event_has_more_besides_its_tail_than_is_reckoned_with(size: int) -> None:
    tail = bytes(size)
    last = 2**63 - 1
    epoch = "0123456789ab"
    assert Cursor.parse(f"{epoch}:{last}")
    for dialect in (V1(), V2(epoch, Stamper())):
        assert len(dialect.durable(last, tail, last - 1)) - size <= FRAMING
        assert len(dialect.transient(tail)) - size <= FRAMING
