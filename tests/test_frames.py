"""Reading a client's frames: ``frames``."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archibald_rt.errors import CloseCode
from archibald_rt.frames import FrameError, FrameReader, close_of, text_of
from archibald_rt.protocol import BINARY, CONTINUATION, PING, PONG, TEXT

LARGEST = 70_000


def masked(opcode: int, data: bytes, mask: bytes, *, final: bool) -> bytes:
    """Write a client's frame, byte by byte as RFC 6455, section 5.3, has it."""
    length = len(data)
    if length < 126:
        head = bytes((final << 7 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((final << 7 | opcode, 0xFE)) + length.to_bytes(2)
    else:
        head = bytes((final << 7 | opcode, 0xFF)) + length.to_bytes(8)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


def read(reader: FrameReader) -> list[tuple[int, bytes]]:
    found = []
    while (got := reader.next()) is not None:
        found.append(got)
    return found


sizes = st.sampled_from([0, 1, 3, 4, 125, 126, 127, 65535, 65536, LARGEST])
messages = st.tuples(
    st.sampled_from([TEXT, BINARY]),
    sizes.map(lambda size: bytes(place % 251 for place in range(size))),
    st.lists(st.floats(0, 1), max_size=3),
)


@given(
    sent=st.lists(messages, max_size=4),
    mask=st.binary(min_size=4, max_size=4),
    cuts=st.lists(st.floats(0, 1), max_size=20),
    pings=st.booleans(),
)
def test_messages_come_as_they_were_however_they_were_cut(
    sent: list[tuple[int, bytes, list[float]]], mask: bytes, cuts: list[float], *, pings: bool
) -> None:
    wire, expected = b"", []
    for opcode, data, fragments in sent:
        ends = [*sorted(int(each * len(data)) for each in fragments), len(data)]
        start = 0
        for number, end in enumerate(ends):
            kind = CONTINUATION if number else opcode
            wire += masked(kind, data[start:end], mask, final=number == len(ends) - 1)
            start = end
            if pings and number < len(ends) - 1:
                wire += masked(PING, b"between", mask, final=True)
                expected.append((PING, b"between"))
        expected.append((opcode, data))
    reader, got, start = FrameReader(LARGEST), [], 0
    for end in [*sorted(int(each * len(wire)) for each in cuts), len(wire)]:
        reader.feed(wire[start:end])
        got += read(reader)
        start = end
    assert got == expected


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(0, 100))
def test_whatever_comes_is_read_or_refused_with_a_code(chunks: list[bytes], limit: int) -> None:
    reader, code = FrameReader(limit), None
    try:
        for chunk in chunks:
            reader.feed(chunk)
            for opcode, data in read(reader):
                assert opcode != CONTINUATION
                assert not limit or len(data) <= max(limit, 125)
    except FrameError as error:
        code = error.code
    assert code in {None, CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG}


def test_a_message_that_is_too_big_is_refused_at_its_announcement() -> None:
    reader = FrameReader(100)
    reader.feed(masked(TEXT, bytes(100), b"mask", final=True))
    assert reader.next() == (TEXT, bytes(100))
    reader.feed(b"\x81\xff" + (101).to_bytes(8))
    with pytest.raises(FrameError, match="too big") as caught:
        reader.next()
    assert caught.value.code == CloseCode.MESSAGE_TOO_BIG


def test_fragments_count_together() -> None:
    reader = FrameReader(100)
    reader.feed(masked(TEXT, bytes(60), b"mask", final=False))
    assert reader.next() is None
    reader.feed(masked(CONTINUATION, bytes(41), b"mask", final=True))
    with pytest.raises(FrameError, match="too big"):
        reader.next()


def test_a_limit_of_0_is_none() -> None:
    reader = FrameReader(0)
    reader.feed(masked(BINARY, bytes(LARGEST), b"mask", final=True))
    assert reader.next() == (BINARY, bytes(LARGEST))


@given(st.binary(max_size=125))
def test_every_close_frame_is_kept_or_faulted(data: bytes) -> None:
    fault = None
    try:
        code, reason = close_of(data)
        assert (code is None) == (reason is None) == (data == b"")
    except FrameError as error:
        fault = error.code
    assert fault in {None, CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_PAYLOAD}


def test_a_text_is_utf_8() -> None:
    assert text_of("schön".encode()) == "schön"
    with pytest.raises(FrameError) as caught:
        text_of(b"\xed\xa0\x80")
    assert caught.value.code == CloseCode.INVALID_PAYLOAD


@pytest.mark.parametrize(
    "begun",
    [(CONTINUATION, masked(TEXT, b"", b"mask", final=False)), (PONG, b""), (TEXT, b"")],
    ids=["fragments", "pongs", "texts"],
)
def test_a_flood_of_frames_without_data_keeps_nothing(begun: tuple[int, bytes]) -> None:
    opcode, start = begun
    reader = FrameReader(100)
    reader.feed(start)
    flood = masked(opcode, b"", b"mask", final=opcode != CONTINUATION) * 2000
    tracemalloc.start()
    try:
        for _ in range(30):
            reader.feed(flood)
            assert all(data == b"" for _, data in read(reader))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Some lists of what was freed are kept, a few bytes a frame would be more.
    assert kept < 150_000
    if opcode == CONTINUATION:
        reader.feed(masked(CONTINUATION, b"end", b"mask", final=True))
        assert reader.next() == (TEXT, b"end")
