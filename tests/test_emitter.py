"""The batching emitter, against real servers and over bad connections."""

import asyncio
import random
import signal
import sqlite3
import ssl
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from archibald_rt.emitter import (
    EmissionRefusedError,
    Emitted,
    Emitter,
    EmitterClosedError,
    EmitterError,
    NotEmittedError,
    OutcomeUnknownError,
)
from archibald_rt.errors import AuthError
from faults.proxy import proxied
from faults.service import Service
from support import EMIT_TOKEN, Device, Harness, eventually, harness

SEED = 20


def emitter_of(server: Harness, **options: Any) -> Emitter:
    return Emitter(server.server.internal_url, EMIT_TOKEN, **options)


async def received(device: Device, count: int) -> list[Any]:
    """Return the payloads of the next events of a device."""
    return [(await device.next())["payload"] for _ in range(count)]


@pytest.mark.gen_test
async def test_an_emission_is_answered_with_what_became_of_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, emitter_of(server) as emitter:
        async with await server.connect("ada") as device:
            await device.until("rt.live")
            stamp = "2026-01-01T00:00:00Z"
            kept = await emitter.emit("ada", "A", {"n": 1}, timestamp=stamp)
            gone = await emitter.emit("ada", "JOB_PROGRESS", 50, conflate="job")
            news = await emitter.broadcast("NEWS", [1])
            everybody = await emitter.broadcast("NEWS", durable=True)
            seen = await device.take(4)
        assert kept == Emitted(seen[0]["id"], stamp, durable=True, duplicate=False, delivered=1)
        assert (gone.id, gone.durable, gone.delivered) == (None, False, 1)
        assert (news.id, news.durable, news.delivered) == (None, False, 1)
        assert everybody.id == seen[3]["id"]
        assert [each["payload"] for each in seen] == [{"n": 1}, 50, [1], None]


@pytest.mark.gen_test
async def test_what_is_emitted_at_once_goes_in_one_request_and_in_order(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, emitter_of(server) as emitter:
        async with await server.connect("u") as device:
            await device.until("rt.live")
            bodies = posted(emitter)
            answers = await asyncio.gather(*(emitter.emit("u", "A", n) for n in range(50)))
            assert bodies == [50]
            assert await received(device, 50) == list(range(50))
            assert [each["id"] for each in device.seen[-50:]] == [each.id for each in answers]


def posted(emitter: Emitter) -> list[int]:
    """Return a list that gets the number of emissions of each request to come."""
    bodies: list[int] = []
    post = emitter._connection.post  # noqa: SLF001 - how many requests there are is seen nowhere else

    async def counted(path: str, body: bytes) -> Any:
        bodies.append(body.count(b'"type":'))
        return await post(path, body)

    emitter._connection.post = counted  # type: ignore[method-assign]  # noqa: SLF001 - as above
    return bodies


@pytest.mark.gen_test
async def test_callers_in_a_loop_share_requests(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, emitter_of(server) as emitter:
        bodies = posted(emitter)

        async def loop(user: str) -> None:
            for n in range(5):
                await emitter.emit(user, "A", n)

        await asyncio.gather(*(loop(str(user)) for user in range(20)))
        assert bodies == [20] * 5


@pytest.mark.gen_test
async def test_a_batch_is_bounded_in_number_and_in_bytes(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        async with emitter_of(server, max_batch=7) as emitter:
            bodies = posted(emitter)
            await asyncio.gather(*(emitter.emit("u", "A", n) for n in range(20)))
            assert bodies == [7, 7, 6]
        async with emitter_of(server, max_body=2500) as emitter:
            bodies = posted(emitter)
            await asyncio.gather(*(emitter.emit("u", "A", "x" * 900) for _ in range(6)))
            assert bodies == [2, 2, 2]
            # What is larger by itself is the server's to judge.
            assert (await emitter.emit("u", "A", "x" * 3000)).durable


@pytest.mark.gen_test
async def test_order_holds_for_each_user_whatever_is_emitted_at_once(tmp_path: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret is made of it
    users = ["a", "b", "c"]
    expected: dict[str, list[int]] = {user: [] for user in users}
    async with harness(tmp_path) as server, emitter_of(server, max_batch=9) as emitter:
        devices = {user: await server.connect(user) for user in users}
        for device in devices.values():
            await device.until("rt.live")
        emitting: list[asyncio.Task[Emitted]] = []
        for number in range(400):
            if chance.random() < 0.05:
                call = emitter.broadcast("ALL", number, durable=chance.random() < 0.5)
                told = users
            else:
                told = [chance.choice(users)]
                call = emitter.emit(told[0], chance.choice(["A", "X_PROGRESS"]), number)
            for user in told:
                expected[user].append(number)
            emitting.append(asyncio.create_task(call))
            if chance.random() < 0.1:
                # Some go out before the next are there, and a bad one is among them.
                bad = asyncio.create_task(emitter.emit("a", "rt.no"))
                await chance.choice(emitting)
                with pytest.raises(EmissionRefusedError):
                    await bad
        await asyncio.gather(*emitting)
        for user, device in devices.items():
            assert await received(device, len(expected[user])) == expected[user]
            await device.close()


@pytest.mark.gen_test
async def test_a_bad_emission_is_refused_alone(tmp_path: Path) -> None:
    async with harness(tmp_path, {"events.max_event": "2KiB"}) as server:
        async with emitter_of(server) as emitter, await server.connect("u") as device:
            await device.until("rt.live")
            await emitter.emit("u", "A", "first", key="k")
            emissions: list[dict[str, Any]] = [
                {"payload": 0},
                {"type": "rt.reserved"},
                {"payload": 1},
                {"payload": "x" * 2048},
                {"payload": "second", "key": "k"},
                {"payload": "first", "key": "k"},
                {"user": ""},
                {"timestamp": "yesterday"},
                {"conflate": "c"},
                {"payload": b"[" * 600 + b"]" * 600},
                {"payload": 2},
            ]
            answers = await asyncio.gather(
                *(emitter.emit(**{"user": "u", "type": "A", **each}) for each in emissions),
                return_exceptions=True,
            )
            refused = [
                (each.status, each.field) if isinstance(each, EmissionRefusedError) else None
                for each in answers
            ]
            assert refused == [
                None,
                (400, "type"),
                None,
                (413, "payload"),
                (409, "key"),
                None,
                (400, "userId"),
                (400, "timestamp"),
                (400, "conflate"),
                (400, "payload"),
                None,
            ]
            assert str(answers[1]) == "400 type: types that begin with rt. are reserved"
            assert isinstance(answers[5], Emitted)
            assert answers[5].duplicate
            assert await received(device, 4) == ["first", 0, 1, 2]


@pytest.mark.gen_test
async def test_a_refusal_that_names_nobody_is_narrowed_down(tmp_path: Path) -> None:
    async with harness(tmp_path, {"internal.max_body": "8KiB"}) as server:
        async with emitter_of(server) as emitter, await server.connect("u") as device:
            await device.until("rt.live")
            sizes = [100] * 15 + [8200] + [100] * 15
            answers = await asyncio.gather(
                *(emitter.emit("u", "A", [n, "x" * size]) for n, size in enumerate(sizes)),
                return_exceptions=True,
            )
            refused = [n for n, each in enumerate(answers) if not isinstance(each, Emitted)]
            assert refused == [15]
            assert isinstance(answers[15], EmissionRefusedError)
            assert answers[15].status == 413
            numbers = [payload[0] for payload in await received(device, 30)]
            assert numbers == [n for n in range(31) if n != 15]


@pytest.mark.gen_test
async def test_a_payload_of_bytes_is_json_and_reaches_devices_as_it_is(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, emitter_of(server) as emitter:
        async with await server.connect("u") as device:
            await device.until("rt.live")
            await emitter.emit("u", "A", b' {"b": 1.00,\n"a": 12345678901234567890123}')
            text = await device.text() or ""
            assert '"payload":{"b": 1.00, "a": 12345678901234567890123},"timestamp":' in text
        for wrong in (b"", b"{", b"1,2", b'1},{"userId":"v"', b"\xff", b'"\xff"', b"[" * 5000):
            with pytest.raises(ValueError, match=r"no JSON|nested"):
                await emitter.emit("u", "A", wrong)
        for unfit in (object(), {1: {2, 3j}}):
            with pytest.raises(TypeError):
                await emitter.emit("u", "A", unfit)
        with pytest.raises(ValueError, match="surrogates"):
            await emitter.emit("\ud800", "A")


@pytest.mark.gen_test
async def test_an_answer_that_was_lost_is_had_by_another_try_and_nothing_doubles(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN) as emitter, await server.connect("u") as device:
            await device.until("rt.live")
            proxy.reset_after(down=lambda: 0)
            emitting = [
                asyncio.create_task(emitter.emit("u", "A", n, key=None if n else "mine"))
                for n in range(5)
            ]
            progress = asyncio.create_task(emitter.emit("u", "A", "gone", durable=False))
            # The server has them all; its answer didn't get through, and won't.
            assert await received(device, 6) == [0, 1, 2, 3, 4, "gone"]
            with pytest.raises(OutcomeUnknownError):
                await progress
            await eventually(lambda: proxy.resets > 1)
            assert not any(each.done() for each in emitting)
            proxy.reset_after()
            answers = await asyncio.gather(*emitting)
            assert [each.duplicate for each in answers] == [True] * 5
            ids = [each["id"] for each in device.seen if "id" in each]
            assert [each.id for each in answers] == ids
            await emitter.emit("u", "SENTINEL", "end")
            assert await received(device, 1) == ["end"]


@pytest.mark.gen_test
async def test_a_type_that_is_transient_by_class_is_never_sent_twice(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN) as emitter, await server.connect("u") as device:
            await device.until("rt.live")
            first = await emitter.emit("u", "JOB_PROGRESS", 1)
            assert not first.durable
            requests = posted(emitter)
            await asyncio.gather(*(emitter.emit("u", "JOB_PROGRESS", n) for n in (2, 3)))
            assert requests == [2]
            proxy.reset_after(down=lambda: 0)
            with pytest.raises(OutcomeUnknownError):
                await emitter.emit("u", "JOB_PROGRESS", 4)
            proxy.reset_after()
            await emitter.emit("u", "A", 5)
            assert await received(device, 5) == [1, 2, 3, 4, 5]


@pytest.mark.gen_test
async def test_it_gives_up_in_time_and_says_whether_anything_may_have_happened(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN, retry_for=0.3) as emitter:
            await emitter.emit("u", "A")
            proxy.reset_after(down=lambda: 0)
            with pytest.raises(OutcomeUnknownError):
                await emitter.emit("u", "A")
        proxy.reset_after()
        async with Emitter(proxy.url, EMIT_TOKEN, retry_for=0.3, timeout=0.2) as emitter:
            proxy.partition(swallow=True)
            with pytest.raises(OutcomeUnknownError, match="no answer within"):
                await emitter.emit("u", "A")
    nobody = Emitter(proxy.url, EMIT_TOKEN, retry_for=0.3)
    async with nobody as emitter:
        answers = await asyncio.gather(
            *(emitter.emit("u", "A", durable=kept) for kept in (True, False)),
            return_exceptions=True,
        )
        assert [type(each) for each in answers] == [NotEmittedError] * 2


@pytest.mark.gen_test
async def test_a_refusal_that_passes_is_waited_out(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, await server.connect("u") as device:
        await device.until("rt.live")
        log = server.settings.log.path
        with closing(sqlite3.connect(log, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with emitter_of(server, retry_for=0.5) as emitter:
                with pytest.raises(NotEmittedError, match="503"):
                    await emitter.emit("u", "A")
            async with emitter_of(server) as emitter:
                emitting = [
                    asyncio.create_task(emitter.emit("u", "A", n, durable=n != 2)) for n in range(4)
                ]
                requests = posted(emitter)
                await eventually(lambda: len(requests) > 1)
                other.execute("ROLLBACK")
                assert [each.delivered for each in await asyncio.gather(*emitting)] == [1] * 4
        assert await received(device, 4) == [0, 1, 2, 3]


@pytest.mark.gen_test
async def test_what_may_have_been_stored_stays_unknown_if_no_later_try_tells(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN, retry_for=1.0) as emitter:
            proxy.reset_after(down=lambda: 0)
            emitting = asyncio.create_task(emitter.emit("u", "A"))
            await eventually(lambda: proxy.resets)
            with closing(sqlite3.connect(server.settings.log.path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                proxy.reset_after()
                with pytest.raises(OutcomeUnknownError, match="503"):
                    await emitting


@pytest.mark.gen_test
async def test_a_server_that_is_killed_and_started_again_has_each_emission_once_and_in_order(
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED)  # noqa: S311 - no secret is made of it
    users = [f"user-{n}" for n in range(8)]
    answered: dict[str, list[tuple[int, str]]] = {user: [] for user in users}
    async with Service(tmp_path) as service:
        await service.start()
        async with Emitter(service.internal_url, EMIT_TOKEN) as emitter:
            calm = asyncio.Event()

            async def emit(user: str) -> None:
                number = 0
                while not calm.is_set():
                    emitted = await emitter.emit(user, "A", number)
                    assert emitted.id is not None
                    answered[user].append((number, emitted.id))
                    number += 1

            def count() -> int:
                return sum(map(len, answered.values()))

            emitting = [asyncio.create_task(emit(user)) for user in users]
            for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                enough = count() + 200
                await eventually(lambda enough=enough: count() > enough)  # type: ignore[misc]  # its default binds this one
                await asyncio.sleep(chance.random() * 0.01)  # in the midst of something else
                service.signal(how)
                await service.wait()
                await service.start()
            calm.set()
            await asyncio.gather(*emitting)
        await service.stop()
    with closing(sqlite3.connect(service.log)) as log:
        for user in users:
            rows = log.execute(
                "SELECT seq, tail FROM events WHERE user = ? ORDER BY seq", (user.encode(),)
            ).fetchall()
            stored = [int(tail.split(b'"payload":')[1].split(b",")[0]) for _, tail in rows]
            assert stored == list(range(len(answered[user])))
            seqs = [int(cursor.split(":")[1]) for _, cursor in answered[user]]
            assert seqs == [seq for seq, _ in rows]


@pytest.mark.gen_test
async def test_a_caller_that_is_cancelled_takes_nobody_with_it(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN) as emitter, await server.connect("u") as device:
            await device.until("rt.live")
            proxy.stall()
            under_way = [asyncio.create_task(emitter.emit("u", "A", n)) for n in range(3)]
            await eventually(lambda: proxy.accepted)
            waiting = [asyncio.create_task(emitter.emit("u", "A", n)) for n in range(3, 6)]
            await asyncio.sleep(0)
            for each in (under_way[1], waiting[1]):
                each.cancel()
            proxy.resume()
            answers = await asyncio.gather(*under_way, *waiting, return_exceptions=True)
            assert [isinstance(each, Emitted) for each in answers] == [
                n not in {1, 4} for n in range(6)
            ]
            # What had been sent was emitted all the same.
            assert await received(device, 5) == [0, 1, 2, 3, 5]


@pytest.mark.gen_test
async def test_whoever_comes_when_too_much_waits_waits_outside_and_keeps_its_place(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with (
            Emitter(proxy.url, EMIT_TOKEN, max_waiting=2000) as emitter,
            await server.connect("u") as device,
        ):
            await device.until("rt.live")
            proxy.stall()
            emitting = [asyncio.create_task(emitter.emit("u", "A", n)) for n in range(30)]
            await eventually(lambda: proxy.accepted)
            line = emitter._line  # noqa: SLF001 - what waits is seen nowhere else
            assert 0 < line.size < 3000
            emitting[20].cancel()
            proxy.resume()
            answers = await asyncio.gather(*emitting, return_exceptions=True)
            assert [n for n in range(30) if not isinstance(answers[n], Emitted)] == [20]
            assert line.size == 0
            assert await received(device, 29) == [n for n in range(30) if n != 20]


@pytest.mark.gen_test
async def test_close_has_all_that_is_pending_answered_and_then_nothing_is_taken(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server:
        async with emitter_of(server, max_waiting=2000, max_batch=3) as emitter:
            emitting = [asyncio.create_task(emitter.emit("u", "A", n)) for n in range(20)]
            await asyncio.sleep(0)
        assert all(each.done() for each in emitting)
        assert all(each.result().durable for each in emitting)
        with pytest.raises(EmitterClosedError):
            await emitter.emit("u", "A")
        await emitter.close()
        with pytest.raises(RuntimeError):
            await emitter_of(server).emit("u", "A")
        with pytest.raises(RuntimeError):
            async with emitter:
                pass


@pytest.mark.gen_test
async def test_a_close_that_is_cancelled_leaves_no_caller_waiting(tmp_path: Path) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        proxy.stall()
        emitter = await Emitter(proxy.url, EMIT_TOKEN, max_waiting=2000).__aenter__()
        sent = [asyncio.create_task(emitter.emit("u", "A")) for _ in range(2)]
        await eventually(lambda: proxy.accepted)
        waiting = [asyncio.create_task(emitter.emit("u", "A")) for _ in range(20)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(emitter.close(), 0.05)
        answers = await asyncio.gather(*sent, *waiting, return_exceptions=True)
        kinds = Counter(type(each) for each in answers)
        assert kinds == {OutcomeUnknownError: 2, EmitterClosedError: 20}
        await emitter.close()


@pytest.mark.gen_test
async def test_a_socket_in_the_file_system_will_do(tmp_path: Path) -> None:
    path = tmp_path / "internal.sock"
    async with harness(tmp_path, {"internal.unix_socket": str(path)}) as server:
        assert server.server.internal_url == f"unix:{path}"
        async with emitter_of(server) as emitter:
            assert (await emitter.emit("u", "A")).durable
    async with Emitter(f"unix:{path}", EMIT_TOKEN, retry_for=0.1) as emitter:
        with pytest.raises(NotEmittedError, match="can't be reached"):
            await emitter.emit("u", "A")


@pytest.mark.gen_test
async def test_a_connection_is_kept_between_requests_and_opened_anew_when_it_ended(
    tmp_path: Path,
) -> None:
    async with harness(tmp_path) as server, proxied(server.server.internal_url) as proxy:
        async with Emitter(proxy.url, EMIT_TOKEN) as emitter:
            for _ in range(3):
                await emitter.emit("u", "A")
            assert proxy.accepted == 1
            proxy.reset_after(up=lambda: 0, down=lambda: 0)
            stream = emitter._connection._stream  # noqa: SLF001 - nobody else knows when it has ended
            assert stream is not None
            # One that ends while nothing is asked for is noticed, so that nothing is put at risk.
            for task in list(proxy._links.values()):  # noqa: SLF001 - as above
                task.cancel()
            await eventually(stream.closed)
            proxy.reset_after()
            assert not (await emitter.emit("u", "A", durable=False)).durable
            assert proxy.accepted == 2


@pytest.mark.parametrize("bearer", ["wrong", "é" * 32])
@pytest.mark.gen_test
async def test_a_token_that_is_refused_is_told_to_every_caller(tmp_path: Path, bearer: str) -> None:
    async with harness(tmp_path) as server:
        async with Emitter(server.server.internal_url, bearer) as emitter:
            answers = await asyncio.gather(
                *(emitter.emit("u", "A") for _ in range(3)), return_exceptions=True
            )
            assert [type(each) for each in answers] == [AuthError] * 3
            assert bearer not in str(answers)


@pytest.mark.gen_test
async def test_a_token_may_hold_any_character(tmp_path: Path) -> None:
    async with harness(tmp_path, {"internal.emit_tokens": "é" * 32}) as server:
        async with Emitter(server.server.internal_url, "é" * 32) as emitter:
            assert (await emitter.emit("u", "A")).durable


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8081", "ftp://x", "http://", "http://a:b@x", "unix:relative", "http://x?q"],
)
def test_an_address_that_can_not_be_one_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|URL"):
        Emitter(url, EMIT_TOKEN)


@pytest.mark.parametrize("bearer", ["", "a b", "a\r\nX: y"])
def test_a_token_that_no_header_can_carry_is_refused(bearer: str) -> None:
    with pytest.raises(AuthError):
        Emitter("http://x", bearer)


@pytest.mark.gen_test
async def test_what_is_no_such_server_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        async with Emitter(server.server.public_url, EMIT_TOKEN) as emitter:
            with pytest.raises(EmissionRefusedError, match="404"):
                await emitter.emit("u", "A")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of ``localhost`` and its key."""
    made = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, made.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(made, hashes.SHA256())
    )
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate.write_bytes(signed.public_bytes(pem))
    key.write_bytes(made.private_bytes(pem, *plain))
    return certificate, key


@pytest.mark.gen_test
async def test_https_asks_for_a_certificate_that_can_be_trusted(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)
    async with harness(tmp_path) as server:
        port = int(server.server.internal_url.rpartition(":")[2])

        async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Pass a connection on without its TLS, as a proxy in front of the listener does."""
            upstream, upwriter = await asyncio.open_connection("127.0.0.1", port)
            with suppress(OSError):
                await asyncio.gather(copy(reader, upwriter), copy(upstream, writer))

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            finally:
                sink.close()

        listener = await asyncio.start_server(front, "127.0.0.1", 0, ssl=served)
        async with listener:
            url = f"https://localhost:{listener.sockets[0].getsockname()[1]}"
            trusting = ssl.create_default_context(cafile=certificate)
            async with Emitter(url, EMIT_TOKEN, ssl_context=trusting) as emitter:
                assert (await emitter.emit("u", "A")).durable
            async with Emitter(url, EMIT_TOKEN) as emitter:
                with pytest.raises(NotEmittedError, match="trusted"):
                    await emitter.emit("u", "A")


def test_every_error_of_an_emission_is_one_kind() -> None:
    for kind in (EmissionRefusedError, EmitterClosedError, NotEmittedError, OutcomeUnknownError):
        assert issubclass(kind, EmitterError)
