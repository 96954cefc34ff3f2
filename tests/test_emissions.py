"""Reading request bodies strictly and keeping payloads as they were written: ``emissions``."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archibald_rt.bodies import MAX_EMISSIONS
from archibald_rt.emissions import EmissionReader
from archibald_rt.errors import EmissionError
from archibald_rt.events import Emission, TransientTypes, content_of
from archibald_rt.timestamps import Stamper, parse

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
ASTRAL = "\U0001f600"
CONTROLS = ["\x00", "\x01", "\t", "\n", "\r", "\x1b", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
LONGEST = {"userId": 256, "type": 128, "key": 200}
UNPAIRED = [
    rb"\ud800",
    rb"\udbff",
    rb"\udc00",
    rb"\udfff",
    rb"\uDC00",
    rb"\ud83d\u0041",
    rb"\ud83d\ud83d",
    rb"\ud83d\ud83d\ude00",
    rb"\ud83d\ude00\ude00",
    rb"\udc00\ud800",
    rb"\ud83dx\ude00",
    rb"\ud83d\n\ude00",
    rb"\ud83d\\ude00",
    rb"\\\ud800",
    rb"a long text before it \ud800 and after it",
]
BAD_UTF8 = [b"\xff", b"\x80", b"\xc0\xaf", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]


def reader(*, max_event: int = 0) -> EmissionReader:
    return EmissionReader(
        Stamper(lambda: NOW),
        TransientTypes(["*_PROGRESS", "draft:submitted"]),
        max_event=max_event,
    )


def emission(**members: Any) -> dict[str, Any]:
    return {"userId": "u", "type": "T", **members}


def read(body: object) -> list[Emission]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return reader().read(raw)[0]


def read_one(body: object) -> Emission:
    (one,) = read(body)
    return one


def refusal(body: object, **options: int) -> EmissionError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(EmissionError) as caught:
        reader(**options).read(raw)
    return caught.value


def refusal_of_lines(body: bytes) -> EmissionError:
    with pytest.raises(EmissionError) as caught:
        reader().read_lines(body)
    return caught.value


def refusal_of_broadcast(body: object) -> EmissionError:
    with pytest.raises(EmissionError) as caught:
        reader().read_broadcast(json.dumps(body).encode())
    return caught.value


def with_payload(payload: bytes) -> bytes:
    return b'{"userId":"u","type":"T","payload":' + payload + b"}"


def payload_of(one: Emission) -> bytes:
    return content_of(one.tail).removeprefix(b'"type":"T","payload":')


# One emission


def test_an_emission_is_read_with_all_it_says() -> None:
    body = emission(payload={"a": 1}, timestamp="2026-02-01T00:00:00Z", durable=True, key="k")
    assert read_one(body) == Emission(
        user="u",
        tail=b'"type":"T","payload":{"a": 1},"timestamp":"2026-02-01T00:00:00Z"}',
        timestamp="2026-02-01T00:00:00Z",
        instant=parse("2026-02-01T00:00:00Z"),
        durable=True,
        key="k",
    )


def test_what_it_does_not_say_is_null_now_and_by_class() -> None:
    one = read_one(emission())
    assert one.tail == b'"type":"T","payload":null,"timestamp":"2026-01-01T00:00:00.000Z"}'
    assert (one.timestamp, one.instant) == ("2026-01-01T00:00:00.000Z", int(NOW) * 10**9)
    assert (one.durable, one.key, one.conflate) == (True, None, None)


def test_a_null_payload_is_a_payload() -> None:
    assert payload_of(read_one(emission(payload=None))) == b"null"


def test_the_answer_is_a_list_for_a_batch_and_for_several_users_and_for_nothing_else() -> None:
    bodies = [emission(), [emission()], {"userIds": ["u"], "type": "T"}]
    assert [reader().read(json.dumps(body).encode())[1] for body in bodies] == [False, True, True]


def test_several_users_get_an_event_each_in_the_order_of_the_list() -> None:
    emissions = read({"userIds": ["b", "a", "A"], "type": "T", "key": "k"})
    assert [one.user for one in emissions] == ["b", "a", "A"]
    assert {one.tail for one in emissions} == {emissions[0].tail}
    assert {one.key for one in emissions} == {"k"}


def test_users_are_never_normalised() -> None:
    composed, decomposed = "\u00e9", "e\u0301"
    emissions = read({"userIds": [composed, decomposed, " x", "x", "X"], "type": "T"})
    assert [one.user for one in emissions] == [composed, decomposed, " x", "x", "X"]


@pytest.mark.parametrize(
    ("event_type", "durable", "expected"),
    [
        ("T", None, True),
        ("JOB_PROGRESS", None, False),
        ("draft:submitted", None, False),
        ("job_progress", None, True),
        ("JOB_PROGRESS", True, True),
        ("T", False, False),
    ],
)
def test_durable_goes_by_the_classes_unless_the_emission_says_otherwise(
    event_type: str, *, durable: bool | None, expected: bool
) -> None:
    said = {} if durable is None else {"durable": durable}
    assert read_one(emission(type=event_type, **said)).durable is expected


# What is refused, and named


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"type": "T"}, "userId"),
        ({"userId": "u", "userIds": ["v"], "type": "T"}, "userIds"),
        ({"userId": "u"}, "type"),
        (emission(user="x"), "user"),
        (emission(PAYLOAD=1), "PAYLOAD"),
        (emission(id=None), "id"),
        ({"userIds": ["a", "b", "a"], "type": "T"}, "userIds[2]"),
        ({"userIds": [], "type": "T"}, "userIds"),
        ({"userIds": ["a", ""], "type": "T"}, "userIds[1]"),
        ({"userIds": ["a", 5], "type": "T"}, "userIds[1]"),
        ({"userIds": "a", "type": "T"}, "userIds"),
        ({"userIds": ["a", "b\n"], "type": "T"}, "userIds[1]"),
        ({"userIds": ["a" * 257], "type": "T"}, "userIds[0]"),
        (emission(type="rt."), "type"),
        (emission(type="rt.welcome"), "type"),
        (emission(timestamp="yesterday"), "timestamp"),
        (emission(type="JOB_PROGRESS", key="k"), "key"),
        (emission(durable=False, key="k"), "key"),
        (emission(conflate="c"), "conflate"),
        (emission(type="JOB_PROGRESS", durable=True, conflate="c"), "conflate"),
        (emission(durable=False, key="k", conflate="c"), "key"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_named(body: object, field: str) -> None:
    error = refusal(body)
    assert (error.status, error.field) == (400, field)
    assert error.detail.startswith(f"{field}: ")


@pytest.mark.parametrize("value", [None, 5, True, 1.5, ["x"], {"x": 1}])
@pytest.mark.parametrize("name", ["userId", "type", "timestamp", "key", "conflate"])
def test_a_text_is_nothing_else(name: str, value: object) -> None:
    error = refusal({**emission(), name: value})
    assert (error.status, error.field) == (400, name)


@pytest.mark.parametrize("value", [None, 0, 1, "true", "", [], {}])
def test_durable_is_true_or_false_and_nothing_else(value: object) -> None:
    error = refusal(emission(durable=value))
    assert (error.status, error.field) == (400, "durable")


@pytest.mark.parametrize("value", [None, 5, "u", {"u": 1}])
def test_user_ids_are_a_list_and_nothing_else(value: object) -> None:
    error = refusal({"userIds": value, "type": "T"})
    assert (error.status, error.field) == (400, "userIds")


@pytest.mark.parametrize("event_type", ["rt", "RT.x", "xrt.y", " rt.x", "rtx"])
def test_only_types_that_begin_with_rt_and_a_dot_are_reserved(event_type: str) -> None:
    assert read_one(emission(type=event_type)).durable


@pytest.mark.parametrize("letter", ["a", "é", ASTRAL], ids=["ascii", "two bytes", "astral"])
@pytest.mark.parametrize("name", [*LONGEST, "conflate"])
def test_lengths_are_counted_in_characters(name: str, letter: str) -> None:
    longest = LONGEST.get(name, 200)
    transient = {"durable": False} if name == "conflate" else {}
    for ascii_only in (True, False):
        for length in (1, longest):
            body = {**emission(**transient), name: letter * length}
            read(json.dumps(body, ensure_ascii=ascii_only).encode())
        for length in (0, longest + 1):
            body = {**emission(**transient), name: letter * length}
            error = refusal(json.dumps(body, ensure_ascii=ascii_only).encode())
            assert (error.status, error.field) == (400, name)


@pytest.mark.parametrize("control", CONTROLS, ids=repr)
@pytest.mark.parametrize("name", ["userId", "type", "key", "conflate"])
def test_no_name_holds_a_control_character(name: str, control: str) -> None:
    transient = {"durable": False} if name == "conflate" else {}
    for value in (control, "a" + control, control + "a"):
        error = refusal({**emission(**transient), name: value})
        assert (error.status, error.field) == (400, name)


@pytest.mark.parametrize("text", [" ", "\xa0", "~", "\u2028", "\ufeff", "\u200b", ASTRAL, "*", "'"])
def test_names_hold_whatever_else_there_is(text: str) -> None:
    one = read_one(emission(userId=text, type=text, key=text))
    assert (one.user, one.key) == (text, text)
    assert json.loads(b"{" + one.tail)["type"] == text


def test_an_unknown_key_is_told_back_in_one_line_of_moderate_length() -> None:
    error = refusal({**emission(), "a\nb" + "x" * 100_000: 1})
    assert error.field.startswith("a?bx")
    assert len(error.field) <= 100
    assert len(error.detail) < 300
    assert "\n" not in error.detail


# Timestamps


@pytest.mark.parametrize(
    "timestamp",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02t03:04:05z",
        "2026-01-02T03:04:05.123456789Z",
        "2026-01-02T03:04:05.100000000+05:30",
        "2026-01-02T03:04:05-00:00",
        "2026-12-31T23:59:60Z",
        "9999-12-31T23:59:59Z",
    ],
)
def test_a_timestamp_is_passed_on_untouched(timestamp: str) -> None:
    one = read_one(emission(timestamp=timestamp))
    assert one.tail.endswith(f',"timestamp":"{timestamp}"}}'.encode())
    assert one.timestamp == timestamp
    assert one.instant == parse(timestamp)


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "2026-01-02T03:04:05.1234567890Z",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-01-02T24:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-06-30T12:00:60Z",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05Z ",
        "2026-01-02T03:04:05Z\n",
        '2026-01-02T03:04:05Z","x":"',
    ],
)
def test_any_other_timestamp_is_refused(timestamp: str) -> None:
    error = refusal(emission(timestamp=timestamp))
    assert (error.status, error.field) == (400, "timestamp")


# Payloads


@pytest.mark.parametrize(
    "payload",
    [
        b"null",
        b"true",
        b"0",
        b"-0",
        b"1.0",
        b"1.00",
        b"1E5",
        b"1e+5",
        b"-0.0e-0",
        b"1e999",
        b"12345678901234567890123456789012345678901234567890",
        b"0.1000000000000000055511151231257827",
        b'""',
        b'"\\u00e9"',
        b'"\xc3\xa9"',
        b'"e\xcc\x81"',
        b'"\\/"',
        b'"/"',
        b'"\\ud83d\\ude00"',
        b'"\\uD83D\\uDe00"',
        b'"\xf0\x9f\x98\x80"',
        b'"\\u0000\\n\\r"',
        b'"\x7f\xe2\x80\xa8"',
        b'"\\\\ud800"',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":2}',
        b'{"":{}}',
        b"[ 1 ,\t2 ]",
        b"[]",
        b'{"type":"rt.x","timestamp":"","userId":null}',
    ],
)
def test_a_payload_keeps_its_bytes(payload: bytes) -> None:
    assert payload_of(read_one(with_payload(payload))) == payload


def test_line_breaks_between_tokens_become_spaces() -> None:
    one = read_one(with_payload(b'{\r\n  "a\\n": [1,\n2]\r}'))
    assert payload_of(one) == b'{    "a\\n": [1, 2] }'


def test_no_payload_that_is_read_holds_a_line_break() -> None:
    # One line of NDJSON and one line of SSE are what it has to fit in.
    error = refusal(with_payload(b'"a\nb"'))
    assert error.status == 400


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"01",
        b"1.",
        b".5",
        b"+1",
        b"-",
        b"1e",
        b"0x10",
        b"NaN",
        b"Infinity",
        b"undefined",
        b"nul",
        b"True",
        b"'a'",
        b'"a',
        b'"\\x"',
        b'"\\u12"',
        b'"\t"',
        b'"\x00"',
        b"[1,]",
        b"[1 2]",
        b"[",
        b'{"a":1,}',
        b'{"a"}',
        b"{1:2}",
        b"{a:1}",
        b"1 // one",
        b"\xa0",
        b"1 2",
    ],
)
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    assert refusal(with_payload(payload)).status == 400


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_a_payload_is_nested_500_deep_and_no_deeper(brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets
    times, rest = divmod(500, opening.count(b"[") + opening.count(b"{"))
    assert not rest
    deepest = opening * times + b"1" + closing * times
    assert payload_of(read_one(with_payload(deepest))) == deepest
    error = refusal(with_payload(b"[" + deepest + b"]"))
    assert (error.status, error.field) == (400, "payload")


def test_nesting_far_too_deep_is_refused_and_not_a_crash() -> None:
    for depth in (1001, 100_000):
        refused = refusal(with_payload(b"[" * depth + b"]" * depth))
        assert refused.status == 400
        assert "nested" in refused.detail
        # Where a decoder stops in one that is never closed is its own affair.
        assert refusal(with_payload(b"[" * depth)).status == 400


def test_brackets_side_by_side_and_within_strings_are_not_nesting() -> None:
    for payload in (
        b"[" + b",".join([b"[]"] * 600) + b"]",
        b'"' + b"[{" * 600 + b'"',
        b'["\\"' + b"[" * 600 + b'\\\\",[]]',
    ):
        assert payload_of(read_one(with_payload(payload))) == payload
    bracketed = b'["' + b"]" * 600 + b'",' + b"[" * 500 + b"]" * 500 + b"]"
    assert refusal(with_payload(bracketed)).field == "payload"


@pytest.mark.parametrize("text", UNPAIRED)
def test_an_unpaired_surrogate_is_refused_wherever_it_stands(text: bytes) -> None:
    for body in (
        with_payload(b'"' + text + b'"'),
        with_payload(b'[1,{"a":["' + text + b'"]}]'),
        with_payload(b'{"' + text + b'":1}'),
        b'{"userId":"u","type":"' + text + b'"}',
        b'{"userId":"' + text + b'","type":"T"}',
        b'{"userIds":["' + text + b'"],"type":"T"}',
        b'{"userId":"u","type":"T","key":"' + text + b'"}',
        b'{"userId":"u","type":"T","' + text + b'":1}',
        b'[{"userId":"u","type":"T","payload":"' + text + b'"}]',
    ):
        assert refusal(body).status == 400


@pytest.mark.parametrize("wrong", BAD_UTF8)
def test_what_is_not_utf_8_is_refused_wherever_it_stands(wrong: bytes) -> None:
    for body in (
        with_payload(b'"' + wrong + b'"'),
        with_payload(b'{"' + wrong + b'":1}'),
        b'{"userId":"u","type":"' + wrong + b'"}',
        b'{"userId":"' + wrong + b'","type":"T"}',
        b'{"userId":"u","type":"T"}' + wrong,
        wrong,
    ):
        assert "UTF-8" in refusal(body).detail
        assert "UTF-8" in refusal_of_lines(body).detail
        with pytest.raises(EmissionError, match="UTF-8"):
            reader().read_broadcast(body)


@pytest.mark.parametrize("where", ["userId", "payload"])
def test_an_event_of_exactly_the_limit_is_taken_and_a_byte_more_is_not(where: str) -> None:
    limit = 65536
    rest = len(b'{"type":"T","payload":"","timestamp":"2026-01-01T00:00:00.000Z"}')
    fits = "x" * (limit - rest)
    # The user is no part of the message, so a long one changes nothing.
    user = "u" * 256 if where == "userId" else "u"
    body = json.dumps(emission(userId=user, payload=fits)).encode()
    (one,), _ = reader(max_event=limit).read(body)
    assert len(b"{" + one.tail) == limit
    error = refusal(emission(userId=user, payload=fits + "x"), max_event=limit)
    assert (error.status, error.field) == (413, "payload")
    batch = refusal([emission(), emission(payload=fits + "x")], max_event=limit)
    assert (batch.status, batch.field) == (413, "[1].payload")


def test_without_a_limit_an_event_may_be_large() -> None:
    assert len(read_one(emission(payload="x" * 1_000_000)).tail) > 1_000_000


# Batches


def test_a_batch_is_read_in_order() -> None:
    emissions = read([emission(type=f"T{number}") for number in range(100)])
    assert [json.loads(b"{" + one.tail)["type"] for one in emissions] == [
        f"T{number}" for number in range(100)
    ]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "T"}, "[2].userId"),
        (emission(x=1), "[2].x"),
        (emission(type=5), "[2].type"),
        (emission(type="rt.x"), "[2].type"),
        (emission(timestamp="never"), "[2].timestamp"),
        ({"userIds": ["a", "a"], "type": "T"}, "[2].userIds[1]"),
        ({"userIds": ["a", 1], "type": "T"}, "[2].userIds[1]"),
        (emission(durable=False, key="k"), "[2].key"),
        ({}, "[2].type"),
        ([], "[2]"),
        (None, "[2]"),
        ("x", "[2]"),
    ],
)
def test_an_error_in_a_batch_names_the_item(item: object, field: str) -> None:
    batch = [emission(), {"userIds": ["a", "b"], "type": "T"}, item, emission()]
    error = refusal(batch)
    assert (error.status, error.field) == (400, field)
    lines = b"\n".join(json.dumps(each).encode() for each in batch)
    error = refusal_of_lines(lines)
    assert (error.status, error.field) == (400, field)


def test_an_empty_batch_is_refused() -> None:
    assert refusal([]).status == 400
    for body in (b"", b"\n", b" \r\n\t\n"):
        assert refusal_of_lines(body).status == 400


def test_a_request_holds_10_000_emissions_and_no_more() -> None:
    batch = [emission()] * MAX_EMISSIONS
    assert MAX_EMISSIONS == 10_000
    assert len(read(batch)) == 10_000
    assert refusal([*batch, emission()]).status == 413
    lines = b"\n".join([json.dumps(emission()).encode()] * 10_001)
    assert refusal_of_lines(lines).status == 413
    assert len(reader().read_lines(lines[: lines.rindex(b"\n")])) == 10_000


def test_users_are_counted_one_by_one() -> None:
    half: dict[str, Any] = {"userIds": [f"u{number}" for number in range(5000)], "type": "T"}
    assert len(read([half, half])) == 10_000
    assert refusal([half, half, emission()]).status == 413
    assert refusal({**half, "userIds": [str(n) for n in range(10_001)]}).status == 413


@pytest.mark.parametrize("body", [b"", b" ", b"5", b'"x"', b"null", b"true", b"{", b"[", b"[{}"])
def test_what_is_neither_an_object_nor_an_array_is_refused(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize("after", [b"x", b"{}", b",", b"]", b"}", b"\x00", b'{"userId":"u"}'])
def test_nothing_may_follow_the_body(after: bytes) -> None:
    body = json.dumps(emission()).encode()
    assert refusal(body + after).status == 400
    assert refusal(b"[" + body + b"]" + after).status == 400
    assert refusal_of_lines(body + after).status == 400


def test_white_space_around_the_body_does_no_harm() -> None:
    body = json.dumps(emission()).encode()
    assert len(read(b" \r\n\t" + body + b" \r\n\t")) == 1
    assert len(read(b" \r\n\t[" + body + b"] \r\n\t")) == 1


def test_a_byte_order_mark_is_refused() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(emission()).encode()
    assert refusal(body).status == 400
    assert refusal_of_lines(body).status == 400


# Lines


def test_lines_may_end_with_crlf_and_be_empty_and_the_last_needs_no_end() -> None:
    first, second, third = (json.dumps(emission(type=name)).encode() for name in "ABC")
    body = b"\n" + first + b"\r\n\r\n \t\n" + second + b"\n\n" + third
    emissions = reader().read_lines(body)
    assert [json.loads(b"{" + one.tail)["type"] for one in emissions] == ["A", "B", "C"]
    assert reader().read_lines(body + b"\n") == emissions


def test_an_error_in_a_line_counts_lines_without_the_empty_ones() -> None:
    good = json.dumps(emission()).encode()
    assert refusal_of_lines(b"\n\n" + good + b"\n\n{}\n").field == "[1].type"
    assert refusal_of_lines(good + b"\n\n{\n").field == "[1]"
    assert refusal_of_lines(good + b"\n" + with_payload(b'"\\ud800"')).field == "[1].payload"


@pytest.mark.parametrize("line", [b"[]", b'[{"userId":"u","type":"T"}]', b"null", b"1"])
def test_a_line_is_one_emission(line: bytes) -> None:
    assert refusal_of_lines(line).field == "[0]"


def test_lines_hold_several_users_too() -> None:
    body = b'{"userIds":["a","b"],"type":"T"}\n{"userId":"c","type":"T"}\n'
    assert [one.user for one in reader().read_lines(body)] == ["a", "b", "c"]


# Broadcasts


def test_a_broadcast_has_no_user_and_is_transient() -> None:
    one = reader().read_broadcast(b'{"type":"NEWS","payload":1.0}')
    assert (one.user, one.durable) == (None, False)
    assert one.tail.startswith(b'"type":"NEWS","payload":1.0,')


def test_a_broadcast_is_durable_where_it_says_so() -> None:
    one = reader().read_broadcast(b'{"type":"NEWS","durable":true,"key":"k"}')
    assert (one.durable, one.key) == (True, "k")


def test_a_transient_broadcast_conflates() -> None:
    assert reader().read_broadcast(b'{"type":"NEWS","conflate":"c"}').conflate == "c"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "type"),
        ({"type": "N", "userId": "u"}, "userId"),
        ({"type": "N", "userIds": ["u"]}, "userIds"),
        ({"type": "N", "key": "k"}, "key"),
        ({"type": "N", "durable": True, "conflate": "c"}, "conflate"),
        ({"type": "rt.x"}, "type"),
        ({"type": "N", "timestamp": "2026-01-01T00:00:00"}, "timestamp"),
        ([{"type": "N"}], ""),
    ],
)
def test_a_broadcast_is_checked_like_any_emission(body: object, field: str) -> None:
    error = refusal_of_broadcast(body)
    assert (error.status, error.field) == (400, field)


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
json_texts = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent),
    json_values.filter(lambda value: "Infinity" not in json.dumps(value)),
    st.booleans(),
    st.none() | st.integers(0, 3),
)


@given(json_texts)
@example('"\\u2028\u2028\U0001f600"')
def test_any_payload_survives_byte_for_byte_but_for_line_breaks_between_tokens(text: str) -> None:
    payload = text.encode()
    for one in (
        read_one(with_payload(payload)),
        reader().read_broadcast(b'{"type":"T","payload":' + payload + b"}"),
    ):
        assert payload_of(one) == payload.replace(b"\n", b" ")


escapes = st.lists(
    st.sampled_from(
        ["\\ud83d", "\\uDBFF", "\\ude00", "\\uDC00", "\\u0041", "\\\\", "\\n", "a", "é"]
    )
).map("".join)


@given(escapes)
def test_a_text_is_refused_exactly_where_it_can_not_be_utf_8(text: str) -> None:
    try:
        json.loads(f'"{text}"').encode()
    except UnicodeEncodeError:
        assert refusal(with_payload(f'"{text}"'.encode())).status == 400
    else:
        assert payload_of(read_one(with_payload(f'"{text}"'.encode()))) == f'"{text}"'.encode()


bodies = st.one_of(
    st.binary(),
    json_texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    json_texts.map(lambda text: with_payload(text.encode("utf-8", "surrogatepass"))),
    st.dictionaries(
        st.sampled_from(
            ["userId", "userIds", "type", "payload", "timestamp", "durable", "key", "conflate", "x"]
        ),
        json_values | st.lists(st.text(max_size=3)),
    ).map(lambda body: json.dumps([body]).encode()),
    st.lists(
        st.sampled_from(
            [
                *[b'{"userId":"u","type":"T"', b',"payload":', b'"payload"', b"\\ud800", b"\\"],
                *[b"{", b"}", b"[", b"]", b'"', b",", b":", b"1", b"\n", b"\xff"],
            ]
        )
    ).map(b"".join),
)


@given(bodies)
def test_whatever_comes_is_read_or_refused_and_nothing_else_happens(body: bytes) -> None:
    for reading in (reader().read, reader().read_lines, reader().read_broadcast):
        try:
            reading(body)
        except EmissionError as error:
            assert error.status in {400, 413}  # noqa: PT017 - to be read is fine as well
            assert error.detail  # noqa: PT017 - as above
