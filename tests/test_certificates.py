"""TLS on the public listener, by real certificates and sockets: ``certificates``."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from archibald_rt.certificates import server_context
from archibald_rt.client import Client, ReceivedEvent
from archibald_rt.errors import ConfigError
from archibald_rt.server import running
from issuer import certificate, certificate_files, private_pem
from support import (
    Device,
    Harness,
    eventually,
    handshake,
    harness,
    settings_for,
    token,
)

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def trusting(certificate: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@asynccontextmanager
async def serving(
    folder: Path,
    overrides: dict[str, str] | None = None,
    *,
    version: ssl.TLSVersion | None = None,
    kind: str = "P-256",
) -> AsyncIterator[Harness]:
    cert, key = certificate_files(folder / "tls", kind)
    tls = {"server.tls_cert": str(cert), "server.tls_key": str(key)}
    async with harness(folder, {**tls, **(overrides or {})}) as server:
        server.tls = trusting(cert, version)
        yield server


def port_of(server: Harness) -> int:
    return urlsplit(server.server.public_url).port or 0


async def events(device: Device, count: int) -> list[int]:
    """Return the numbers of the next durable events."""
    found: list[int] = []
    while len(found) < count:
        message = await device.next()
        if "id" in message:
            found.append(message["payload"]["n"])
    return found


@pytest.mark.parametrize("kind", ["P-256", "rsa2048"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.gen_test
async def test_devices_and_health_checks_come_by_tls_of_either_version(
    tmp_path: Path, version: ssl.TLSVersion, kind: str
) -> None:
    async with serving(tmp_path, version=version, kind=kind) as server:
        assert server.server.public_url.startswith("https://127.0.0.1:")
        assert (await server.get("/readyz", bearer=None, public=True)).code == 200
        for v2 in (True, False):
            async with await server.connect("u", v2=v2) as device:
                await device.send("ping")
                while await device.text() != "pong":
                    pass
                await server.emit({"userId": "u", "type": "A"})
                assert (await device.next())["type"] == "A"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.gen_test
async def test_a_long_backlog_arrives_whole_while_more_is_emitted(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    # Records of TLS have 16 KiB: some events have several, some records have several events.
    sizes = [10, 16_000, 16_384, 50_000, 300]
    async with serving(
        tmp_path, {"log.max_events_per_user": "0", "delivery.max_outbox": "256KiB"}, version=version
    ) as server:
        for start in range(0, 1000, 100):
            batch = [
                {"userId": "u", "type": "A", "payload": {"n": n, "x": "x" * sizes[n % 5]}}
                for n in range(start, start + 100)
            ]
            await server.emit(batch)
        async with await server.connect("u", lastEventId="earliest") as device:
            emitting = asyncio.gather(
                *(
                    server.emit({"userId": "u", "type": "A", "payload": {"n": n, "x": "y" * 5000}})
                    for n in range(1000, 1050)
                )
            )
            found = await events(device, 1050)
            await emitting
            assert found[:1000] == list(range(1000))
            assert sorted(found[1000:]) == list(range(1000, 1050))
            chain = [message for message in device.seen if "id" in message]
            before = [device.seen[0]["payload"]["cursor"], *(event["id"] for event in chain[:-1])]
            assert [event["prev"] for event in chain] == before


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.gen_test
async def test_a_device_that_stops_reading_falls_behind_and_loses_nothing(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    body = "x" * 30_000
    async with serving(tmp_path, {"delivery.max_outbox": "128KiB"}, version=version) as server:
        slow = await server.connect("u")
        async with slow, await server.connect("u") as reading:
            await reading.until("rt.live")
            for number in range(400):
                await server.emit(
                    {"userId": "u", "type": "A", "payload": {"n": number, "body": body}}
                )
                assert (await reading.next())["payload"]["n"] == number
            stats = await server.stats()
            assert stats["connections"]["behind"] == 1
            assert stats["outboxBytes"] <= 300 * 1024
            assert await events(slow, 400) == list(range(400))

            async def all_live() -> bool:
                return bool((await server.stats())["connections"]["behind"] == 0)

            await eventually(all_live)


@pytest.mark.gen_test
async def test_a_device_that_reads_nothing_at_all_is_ended_as_stalled(tmp_path: Path) -> None:
    async with serving(tmp_path, {"delivery.stall_timeout": "300ms"}) as server:
        stalled, other = await server.connect("u"), await server.connect("v")
        async with stalled, other:
            await other.until("rt.live")
            body = {"userId": "u", "type": "A", "payload": "x" * 60_000}
            for _ in range(300):
                await server.emit(body)

            async def only_the_other_is_left() -> bool:
                return bool((await server.stats())["connections"]["total"] == 1)

            await eventually(only_the_other_is_left)


@pytest.mark.gen_test
async def test_a_silent_client_that_answers_pings_stays_and_one_that_does_not_is_ended(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, {"delivery.heartbeat": "200ms"}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=server.tls)
        writer.write(handshake(token("dead")))
        async with await server.connect("alive") as device:
            answering = asyncio.create_task(device.until("SENTINEL"))
            received = b""
            with contextlib.suppress(ssl.SSLError):
                while more := await asyncio.wait_for(reader.read(4096), 20):
                    received += more
            assert b"\x89\x00" in received
            await server.emit({"userId": "alive", "type": "SENTINEL"})
            await answering
        writer.close()


def masked(text: bytes) -> bytes:
    return bytes((0x81, 0x80 | 126)) + len(text).to_bytes(2) + bytes(4) + text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("records", ["one", "several", "byte by byte"])
@pytest.mark.gen_test
async def test_what_comes_with_the_handshake_is_read_whatever_records_it_comes_in(
    tmp_path: Path, version: ssl.TLSVersion, records: str
) -> None:
    messages = b"".join(masked(b'{"type":"A","payload":"%s"}' % (b"x" * 6000)) for _ in range(6))
    sent = handshake(token("u")) + messages
    async with serving(tmp_path, version=version) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=server.tls)
        if records == "byte by byte":
            for place in range(0, len(sent), 97):
                writer.write(sent[place : place + 97])
        elif records == "several":
            half = len(handshake(token("u"))) - 10
            writer.write(sent[:half])
            writer.write(sent[half:])
        else:
            writer.write(sent)

        async def all_came() -> bool:
            return bool((await server.stats())["clientMessages"]["received"] == 6)

        await eventually(all_came)
        assert (await reader.read(100)).startswith(b"HTTP/1.1 101")
        writer.close()
        with contextlib.suppress(ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.gen_test
async def test_a_record_that_comes_in_pieces_is_waited_for(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    async with serving(tmp_path, version=version) as server:
        assert server.tls is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server.tls.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))

        async def exchange(do: Callable[[], object]) -> None:
            """Do something that may need more of what the server says."""
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    do()
                    writer.write(outgoing.read())
                    return
                writer.write(outgoing.read())
                incoming.write(await asyncio.wait_for(reader.read(65536), 20))

        await exchange(tls.do_handshake)
        await exchange(lambda: tls.write(handshake(token("u"))))
        received = b""

        def read() -> None:
            nonlocal received
            received += tls.read(65536)

        await exchange(read)
        assert received.startswith(b"HTTP/1.1 101")
        tls.write(masked(b'{"type":"A","payload":"%s"}' % (b"x" * 6000)))
        record = outgoing.read()
        for start in range(0, len(record), 1000):
            writer.write(record[start : start + 1000])
            # It answers by then, so it has seen what came before.
            await server.stats()
        assert (await server.stats())["clientMessages"]["received"] == 1
        assert (await server.stats())["connections"]["total"] == 1
        writer.close()


@pytest.mark.gen_test
async def test_clients_of_http_2_are_offered_http_1_1(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        assert server.tls is not None
        server.tls.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server), ssl=server.tls)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        with contextlib.suppress(ssl.SSLError):
            await writer.wait_closed()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.gen_test
async def test_an_older_version_of_tls_and_none_at_all_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match=r"(?i)version|alert|unsupported"):
            await asyncio.open_connection("127.0.0.1", port_of(server), ssl=old)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 20)
        assert b"HTTP" not in answer
        writer.close()
        # Whoever comes by TLS notices nothing.
        assert (await server.get("/healthz", bearer=None, public=True)).code == 200


@pytest.mark.gen_test
async def test_who_connects_and_does_not_begin_to_speak_tls_is_ended_in_time(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, {"server.handshake_timeout": "200ms"}) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


@pytest.mark.gen_test
async def test_the_python_client_comes_by_tls(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        client = Client(server.server.public_url, token("u"), ssl_context=server.tls)
        async with client:
            types = []
            async for item in client:
                if isinstance(item, ReceivedEvent):
                    types.append(item.type)
                    break
                # Connected, whatever it says first.
                await server.emit({"userId": "u", "type": "A"})
            assert types == ["A"]


@pytest.mark.gen_test
async def test_a_renewed_certificate_is_for_new_connections_and_the_old_ones_go_on(
    tmp_path: Path,
) -> None:
    cert, key = certificate_files(tmp_path / "tls")
    settings = settings_for(
        tmp_path,
        {"server.tls_cert": str(cert), "server.tls_key": str(key), "server.drain": "200ms"},
    )
    async with running(settings) as server:
        old = Harness(server, settings)
        old.tls = trusting(cert)
        async with await old.connect("u") as before:
            await before.until("rt.live")
            certificate_files(tmp_path / "tls", number=1)
            server.reload(settings)
            new = Harness(server, settings)
            new.tls = trusting(cert)
            async with await new.connect("u") as after:
                await after.until("rt.live")
                await new.emit({"userId": "u", "type": "A"})
                for device in (before, after):
                    assert (await device.next())["type"] == "A"
            with pytest.raises(ssl.SSLCertVerificationError):
                await old.connect("u")
            # One that doesn't fit changes nothing.
            key.write_text(private_pem("P-256", 2), encoding="utf-8")
            with pytest.raises(ConfigError, match="not the key"):
                server.reload(settings)
            async with await new.connect("u") as after:
                await after.until("rt.live")


# What can't be used


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        (None, private_pem("P-256"), "[server] tls_cert: {cert} can't be read: No such file"),
        (certificate(), None, "[server] tls_key: {key} can't be read: No such file"),
        (certificate(), private_pem("P-256", 1), "[server] tls_key: not the key of"),
        (certificate(), private_pem("rsa2048"), "[server] tls_key: not the key of"),
        (certificate(), private_pem("P-256", password=b"x"), "[server] tls_key: encrypted"),
        ("", private_pem("P-256"), "[server] tls_cert and tls_key: can't be used"),
        (certificate(), "", "[server] tls_cert and tls_key: can't be used"),
        (private_pem("P-256"), certificate(), "[server] tls_cert and tls_key: can't be used"),
        ("nonsense", "nonsense", "[server] tls_cert and tls_key: can't be used"),
        (certificate("rsa1024"), private_pem("rsa1024"), "[server] tls_cert: its key is too small"),
    ],
    ids=range(10),
)
def test_files_that_are_of_no_use_are_refused_in_one_line(
    tmp_path: Path, cert: str | None, key: str | None, words: str
) -> None:
    paths = {"cert": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
    for name, text in (("cert", cert), ("key", key)):
        if text is not None:
            paths[name].write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        server_context(paths["cert"], paths["key"])
    line = str(caught.value)
    assert words.format(**paths) in line
    assert line.isprintable()


def test_a_folder_is_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        server_context(tmp_path, tmp_path)


def test_a_client_can_not_begin_the_handshake_anew(tmp_path: Path) -> None:
    context = server_context(*certificate_files(tmp_path / "tls"))
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
