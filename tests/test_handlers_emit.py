"""``POST /internal/emit`` and ``/internal/broadcast``, over real sockets."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPError

from archibald_rt.emissions import EmissionReader
from archibald_rt.handlers.emit import EmitHandler
from engines import over_both
from processes import ServerProcess, serving
from support import EMIT_TOKEN, READ_TOKEN, Harness, eventually, harness, problem_of, settings_for

CURSOR = re.compile(r"[0-9a-f]+:(\d+)")


@over_both
@pytest.mark.gen_test
async def test_a_durable_emission_is_answered_with_its_cursor(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        first = await server.emit({"userId": "u", "type": "A", "timestamp": "2026-01-01T00:00:00Z"})
        second = await server.emit({"userId": "u", "type": "A"})
        assert first == {
            "id": first["id"],
            "timestamp": "2026-01-01T00:00:00Z",
            "durable": True,
            "duplicate": False,
            "delivered": 0,
        }
        assert CURSOR.fullmatch(first["id"])
        assert int(second["id"].split(":")[1]) == int(first["id"].split(":")[1]) + 1


@pytest.mark.gen_test
async def test_the_server_stamps_in_utc_milliseconds_what_has_no_timestamp(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        stamps = [(await server.emit({"userId": "u", "type": "A"}))["timestamp"] for _ in range(5)]
        for stamp in stamps:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
        assert stamps == sorted(stamps)


@pytest.mark.gen_test
async def test_a_transient_emission_has_no_id(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        answer = await server.emit({"userId": "u", "type": "JOB_PROGRESS"})
        assert answer["id"] is None
        assert answer["durable"] is False


@pytest.mark.gen_test
async def test_durable_overrides_the_configured_classes(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        kept = await server.emit({"userId": "u", "type": "JOB_PROGRESS", "durable": True})
        gone = await server.emit({"userId": "u", "type": "JOB_STARTED", "durable": False})
        assert (kept["durable"], gone["durable"]) == (True, False)


@over_both
@pytest.mark.gen_test
async def test_user_ids_make_one_event_for_each_user(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("b", v2=False) as device:
        answer = await server.emit({"userIds": ["a", "b", "c"], "type": "A"})
        assert [result["delivered"] for result in answer["results"]] == [0, 1, 0]
        assert list(answer) == ["results"]
        await server.emit({"userId": "b", "type": "SENTINEL"})
        assert [m["type"] for m in await device.take(2)] == ["A", "SENTINEL"]


@over_both
@pytest.mark.gen_test
async def test_an_array_and_ndjson_are_answered_flat_and_in_order(tmp_path: Path) -> None:
    items = [
        {"userId": "a", "type": "A"},
        {"userIds": ["a", "b"], "type": "JOB_PROGRESS"},
        {"userId": "b", "type": "B"},
    ]
    async with harness(tmp_path) as server:
        array = await server.emit(items)
        lines = "\r\n".join(json.dumps(item) for item in items).encode()
        response = await server.post(
            "/internal/emit", lines, Content_Type="application/x-ndjson; charset=utf-8"
        )
        assert response.code == 200
        for answer in (array, json.loads(response.body)):
            assert [result["durable"] for result in answer["results"]] == [True, False, False, True]


@over_both
@pytest.mark.gen_test
async def test_a_batch_with_one_bad_item_stores_and_delivers_nothing(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        async with await server.connect("u") as device:
            await device.until("rt.live")
            response = await server.post(
                "/internal/emit",
                b'[{"userId":"u","type":"A"},{"userId":"u","type":"JOB_PROGRESS"},{"userId":"u"}]',
            )
            assert response.code == 400
            assert problem_of(response)["field"] == "[2].type"
            await server.emit({"userId": "u", "type": "SENTINEL"})
            assert (await device.next())["type"] == "SENTINEL"
        assert (await server.stats())["log"]["head"] == 1


@over_both
@pytest.mark.gen_test
async def test_the_same_key_with_the_same_content_stores_once(tmp_path: Path) -> None:
    emission = {"userId": "u", "type": "A", "payload": {"n": 1}, "key": "k"}
    async with harness(tmp_path) as server:
        first = await server.emit({**emission, "timestamp": "2026-01-01T00:00:00Z"})
        again = await server.emit({**emission, "timestamp": "2027-01-01T00:00:00Z"})
        other_user = await server.emit({**emission, "userId": "v"})
        everybody = {k: v for k, v in emission.items() if k != "userId"} | {"durable": True}
        broadcast = await server.emit(everybody, "broadcast")
        assert again == {**first, "duplicate": True, "delivered": 0}
        assert other_user["duplicate"] is False
        assert broadcast["duplicate"] is False


@over_both
@pytest.mark.gen_test
async def test_a_key_used_with_another_content_refuses_the_whole_batch(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await server.emit({"userId": "u", "type": "A", "key": "k"})
        head = (await server.stats())["log"]["head"]
        alone = await server.post("/internal/emit", b'{"userId":"u","type":"B","key":"k"}')
        assert alone.code == 409
        assert problem_of(alone)["field"] == "key"
        response = await server.post(
            "/internal/emit",
            json.dumps(
                [
                    {"userId": "u", "type": "JOB_PROGRESS"},
                    {"userId": "u", "type": "B", "key": "k"},
                    {"userId": "u", "type": "NEW", "key": "n"},
                    {"userId": "u", "type": "A", "key": "k"},
                    {"userId": "u", "type": "A", "payload": 1, "key": "k"},
                ]
            ).encode(),
        )
        assert response.code == 409
        assert problem_of(response)["indexes"] == [1, 4]
        await server.emit({"userId": "u", "type": "LAST"})
        assert (await server.stats())["log"]["head"] == head + 1


@over_both
@pytest.mark.gen_test
async def test_concurrent_requests_are_answered_once_each_and_in_one_order(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("u") as device:
        await device.until("rt.live")
        answers = await asyncio.gather(
            *(server.emit({"userId": "u", "type": "A", "payload": n}) for n in range(50))
        )
        received = await device.take(50)
        by_payload = {message["payload"]: message["id"] for message in received}
        assert [by_payload[n] for n in range(50)] == [answer["id"] for answer in answers]
        seqs = [int(message["id"].split(":")[1]) for message in received]
        assert seqs == sorted(set(seqs))


@over_both
@pytest.mark.gen_test
async def test_a_broadcast_is_transient_unless_it_says_durable(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        assert (await server.emit({"type": "NEWS"}, "broadcast"))["durable"] is False
        assert (await server.emit({"type": "NEWS", "durable": True}, "broadcast"))["durable"]
        async with await server.connect("anybody", lastEventId="earliest") as device:
            await device.until("rt.live")
            assert [message["type"] for message in device.seen] == [
                "rt.welcome",
                "NEWS",
                "rt.live",
            ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"userId":"u","type":"A","extra":1}', "extra"),
        (b'{"type":"A"}', "userId"),
        (b'{"userId":"u","userIds":["v"],"type":"A"}', "userIds"),
        (b'{"userIds":["v","v"],"type":"A"}', "userIds[1]"),
        (b'{"userId":1,"type":"A"}', "userId"),
        (b'{"userId":"u"}', "type"),
        (b'{"userId":"u","type":"rt.live"}', "type"),
        (b'{"userId":"u","type":"A","timestamp":"yesterday"}', "timestamp"),
        (b'{"userId":"u","type":"A","durable":"yes"}', "durable"),
        (b'{"userId":"u","type":"JOB_PROGRESS","key":"k"}', "key"),
        (b'{"userId":"u","type":"A","conflate":"c"}', "conflate"),
        (b"{", None),
        (b"", None),
        (b"[]", None),
        (b"\xff", None),
    ],
)
@pytest.mark.gen_test
async def test_a_malformed_emission_is_refused_and_its_field_named(
    tmp_path: Path, body: bytes, field: str | None
) -> None:
    async with harness(tmp_path) as server:
        response = await server.post("/internal/emit", body)
        assert response.code == 400
        assert problem_of(response).get("field") == field


@pytest.mark.parametrize("bearer", [None, "wrong", READ_TOKEN, EMIT_TOKEN + "x", "é"])
@pytest.mark.parametrize("path", ["emit", "broadcast"])
@pytest.mark.gen_test
async def test_without_an_emit_token_nothing_is_emitted(
    tmp_path: Path, bearer: str | None, path: str
) -> None:
    async with harness(tmp_path) as server:
        response = await server.post(f"/internal/{path}", b'{"type":"A"}', bearer=bearer)
        assert response.code == 401
        assert "Bearer" in response.headers["WWW-Authenticate"]
        problem_of(response)
        assert (await server.stats())["events"]["transient"] == 0


@pytest.mark.gen_test
async def test_any_of_several_emit_tokens_will_do_and_it_may_hold_any_character(
    tmp_path: Path,
) -> None:
    second = "é" * 32
    async with harness(tmp_path, {"internal.emit_tokens": f"{EMIT_TOKEN}, {second}"}) as server:
        url = urlsplit(server.server.internal_url)
        body = b'{"userId":"u","type":"A"}'
        request = (
            f"POST /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {second}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        ).encode() + body
        answer = await asyncio.to_thread(_exchange, (url.hostname, url.port), request)
        assert answer.startswith(b"HTTP/1.1 200")


def _exchange(address: tuple[str | None, int | None], request: bytes) -> bytes:
    with socket.create_connection(address) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.gen_test
async def test_a_body_of_another_kind_is_refused_with_415(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        body = b'{"userId":"u","type":"A"}'
        for headers in (
            {"Content_Type": "application/x-www-form-urlencoded"},
            {"Content_Type": "application/json; charset=latin-1"},
            {"Content_Encoding": "gzip"},
        ):
            response = await server.post("/internal/emit", body, **headers)
            assert response.code == 415
            problem_of(response)
        ndjson = await server.post("/internal/broadcast", body, Content_Type="application/x-ndjson")
        assert ndjson.code == 415


@pytest.mark.gen_test
async def test_a_body_that_is_too_large_is_read_and_refused_with_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"internal.max_body": "100KiB"}) as server:
        for size in (100 * 1024 + 1, 190 * 1024):
            response = await server.post("/internal/emit", b" " * size)
            assert response.code == 413
            assert problem_of(response)["field"] == "body"
        await server.emit({"userId": "u", "type": "A"})


@pytest.mark.gen_test
async def test_a_body_without_end_is_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async with harness(tmp_path, {"internal.max_body": "100KiB"}) as server:
        url = urlsplit(server.server.internal_url)
        request = (
            b"POST /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + EMIT_TOKEN.encode() + b"\r\n"
            b"Content-Length: 999999999\r\n\r\n" + b" " * (200 * 1024 + 1)
        )
        answer = await asyncio.to_thread(_exchange, (url.hostname, url.port), request)
        assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.gen_test
async def test_an_event_that_is_too_large_is_refused_with_413(tmp_path: Path) -> None:
    async with harness(tmp_path, {"events.max_event": "1KiB"}) as server:
        body = json.dumps({"userId": "u", "type": "A", "payload": "x" * 1024}).encode()
        response = await server.post("/internal/emit", body)
        assert response.code == 413
        assert problem_of(response)["field"] == "payload"


@pytest.mark.gen_test
async def test_a_wrong_method_or_path_is_a_problem_document_for_those_with_a_token(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        response = await server.get("/internal/emit")
        assert response.code == 405
        assert response.headers["Allow"] == "POST"
        problem_of(response)
        response = await server.get("/internal/nothing")
        assert response.code == 404
        problem_of(response)
        assert (await server.get("/internal/nothing", bearer=None)).code == 401
        assert (await server.get("/internal/emit", bearer=None)).code == 401


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
async def test_nothing_waits_for_the_rest_of_a_body_whose_sender_has_gone(
    tmp_path: Path, method: str
) -> None:
    async with harness(tmp_path) as server:
        at = urlsplit(server.server.internal_url)
        before = asyncio.all_tasks()
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(
            f"{method} /internal/emit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            f"Authorization: Bearer {EMIT_TOKEN}\r\n\r\nab".encode()
        )
        await eventually(lambda: asyncio.all_tasks() > before)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: asyncio.all_tasks() <= before)


@over_both
@pytest.mark.gen_test
async def test_a_full_queue_refuses_with_503_and_says_when_to_come_back(tmp_path: Path) -> None:
    body = json.dumps([{"userId": "u", "type": "A", "payload": "x" * 900}] * 50).encode()
    async with harness(tmp_path, {"internal.max_queue": "100KiB"}) as server:
        responses = await asyncio.gather(*(server.post("/internal/emit", body) for _ in range(10)))
        codes = {response.code for response in responses}
        assert codes == {200, 503}
        refused = next(response for response in responses if response.code == 503)
        assert int(refused.headers["Retry-After"]) >= 1
        problem_of(refused)
        accepted = sum(response.code == 200 for response in responses)
        assert (await server.stats())["log"]["head"] == 50 * accepted


@over_both
@pytest.mark.gen_test
async def test_the_payload_reaches_devices_as_it_was_written(tmp_path: Path) -> None:
    payload = (
        b'{"z": 12345678901234567890123456789, "a": 1.0, "b": 1.00, "c": 1E5, "d": -0.0,\n'
        b'\t"z": 0.1000, "e": "\\u00e9\\/\xc3\xa9\xf0\x9f\x98\x80", "f": [ ] , "g": {"":null}}'
    )
    async with harness(tmp_path) as server:
        async with (
            await server.connect("u", v2=False) as v1,
            await server.connect("u") as v2,
        ):
            await v2.until("rt.live")
            body = b'{"payload": ' + payload + b', "type": "A", "userId": "u"}'
            assert (await server.post("/internal/emit", body)).code == 200
            expected = payload.replace(b"\n", b" ").decode()
            for device in (v1, v2):
                text = await device.text()
                assert text is not None
                assert f'"payload":{expected},"timestamp":' in text
        async with await server.connect("u", lastEventId="earliest") as later:
            await later.next()
            assert f'"payload":{expected},"timestamp":' in (await later.text() or "")


@over_both
@pytest.mark.gen_test
async def test_a_conflict_names_the_items_of_the_batch(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        await server.emit({"userId": "k", "type": "A", "key": "1"})
        batch = [{"userIds": ["m", "n"], "type": "A"}, {"userId": "k", "type": "B", "key": "1"}]
        response = await server.post("/internal/emit", json.dumps(batch).encode())
        assert response.code == 409
        problem = problem_of(response)
        assert (problem["field"], problem["indexes"]) == ("[1].key", [1])
        both = {"userIds": ["m", "k"], "type": "B", "key": "1"}
        response = await server.post("/internal/emit", json.dumps(both).encode())
        assert problem_of(response)["field"] == "key"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"userId":"u","type":"A","payload":{"a":["\\ud800"]}}', "payload"),
        (b'[{"userId":"u","type":"A"},{"userId":"\\udc00","type":"A"}]', "[1].userId"),
        (b'{"userId":"u","type":"A","payload":"\\ud83d\\u0041"}', "payload"),
    ],
)
@pytest.mark.gen_test
async def test_an_unpaired_surrogate_is_found_and_its_field_named(
    tmp_path: Path, body: bytes, field: str
) -> None:
    async with harness(tmp_path) as server:
        response = await server.post("/internal/emit", body)
        assert response.code == 400
        assert problem_of(response)["field"] == field
        assert "surrogate" in problem_of(response)["detail"]


@pytest.mark.parametrize("path", ["/internal/stats", "/internal/nothing", "/internal/emit"])
@pytest.mark.parametrize("bearer", [None, EMIT_TOKEN])
def test_a_body_of_no_use_is_not_kept(tmp_path: Path, path: str, bearer: str | None) -> None:
    with serving(tmp_path, {"ARCHIBALD_RT_INTERNAL_MAX_BODY": "1MiB"}) as process:
        before = peak_memory(process.pid)
        asyncio.run(_send_much(process, path, bearer))
        assert peak_memory(process.pid) - before < 50 * 2**20


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had so far, in bytes (proc(5), VmHWM)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def _send_much(process: ServerProcess, path: str, bearer: str | None) -> None:
    server = Harness(process, settings_for(Path()))
    piece = b" " * 2**20

    async def pieces(write: Callable[[bytes], Awaitable[None]]) -> None:
        for _ in range(200):
            await write(piece)

    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    with contextlib.suppress(HTTPError, OSError):
        await AsyncHTTPClient().fetch(
            process.internal_url + path, method="POST", body_producer=pieces, headers=headers
        )
    await server.emit({"userId": "u", "type": "A"})


@pytest.mark.gen_test
async def test_an_answer_says_when_it_was_given_and_is_not_to_be_kept(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        for body, status in ((b'{"userId":"u","type":"A"}', 200), (b"{}", 400)):
            response = await server.post("/internal/emit", body)
            assert response.code == status
            # The client asked for the end of the connection.
            assert set(response.headers) - {"Connection"} == {
                "Cache-Control",
                "Content-Length",
                "Content-Type",
                "Date",
                "X-Request-Id",
            }
            assert response.headers["Cache-Control"] == "no-store"
            given = parsedate_to_datetime(response.headers["Date"])
            assert abs((datetime.now(UTC) - given).total_seconds()) < 60


@pytest.mark.gen_test
async def test_a_fault_of_ours_is_answered_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with harness(tmp_path) as server:

        def fault(*_: object) -> None:
            raise ValueError("a fault has to come from somewhere")

        for place in (EmissionReader, EmitHandler):
            name = "read" if place is EmissionReader else "_result"
            with monkeypatch.context() as broken:
                broken.setattr(place, name, fault)
                response = await server.post("/internal/emit", b'{"userId":"u","type":"A"}')
            assert response.code == 500
            problem_of(response)
        assert capfd.readouterr().out.count("fault in a handler") == 2
        await server.emit({"userId": "u", "type": "A"})
