"""The handshake of TLS: ``http1.tls``."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tornado.web import Application, RequestHandler

from archibald_rt.http1 import listener
from archibald_rt.http1.listener import Listener
from archibald_rt.http1.terms import Limits
from archibald_rt.listen import Endpoint
from issuer import certificate_with_key
from support import PATIENCE

LARGE = 4 * 1024 * 1024
REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Handler(RequestHandler):
    def get(self) -> None:
        self.finish(bytes(LARGE) if self.request.path == "/large" else self.request.protocol)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and its certificate, for localhost."""
    return certificate_with_key(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def serving(certificate: Path, limits: Limits | None = None) -> AsyncIterator[int]:
    """Serve with TLS; yields the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = Listener(Application([("/.*", Handler)]), limits, tls=context)
    sockets = Endpoint("127.0.0.1", 0).bind()
    server.add_sockets(sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()
        await server.over(0)


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def asked(
    port: int, trust: ssl.SSLContext, path: bytes = b"/", *, limit: int = 2**16
) -> bytes:
    """Return the whole answer to a request."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust, server_hostname="localhost", limit=limit
        )
        writer.write(REQUEST % path)
        answer = await reader.read()
        writer.close()
        return answer


@pytest.mark.gen_test
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_are_answered_over_tls(certificate: Path, version: ssl.TLSVersion) -> None:
    trust = trusting(certificate)
    trust.minimum_version = trust.maximum_version = version
    async with serving(certificate) as port:
        assert (await asked(port, trust)).endswith(b"\r\n\r\nhttps")


@pytest.mark.gen_test
async def test_a_large_answer_comes_whole_to_a_slow_reader(certificate: Path) -> None:
    async with serving(certificate) as port:
        answer = await asked(port, trusting(certificate), b"/large", limit=1024)
        assert len(answer.partition(b"\r\n\r\n")[2]) == LARGE


@pytest.mark.gen_test
async def test_what_is_no_handshake_is_ended_and_does_others_no_harm(certificate: Path) -> None:
    async with serving(certificate) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"/")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in await reader.read()
        writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asked(port, ssl.create_default_context())
        assert (await asked(port, trusting(certificate))).endswith(b"https")


@pytest.mark.gen_test
async def test_a_handshake_has_to_be_done_in_time(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "LOOK_EVERY", 0.01)
    async with serving(certificate, Limits(head=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.gen_test
async def test_a_handshake_under_way_is_not_waited_for_at_the_end(certificate: Path) -> None:
    async with serving(certificate) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        # The one before was accepted by then.
        await asked(port, trusting(certificate))
    assert await reader.read() == b""
    writer.close()


@pytest.mark.gen_test
async def test_the_end_is_told_so_that_nobody_can_cut_an_answer_short(certificate: Path) -> None:
    def read_strictly(port: int) -> bytes:
        got = b""
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE.total_seconds()) as plain,
            trusting(certificate).wrap_socket(
                plain, server_hostname="localhost", suppress_ragged_eofs=False
            ) as secured,
        ):
            secured.sendall(REQUEST % b"/")
            while data := secured.recv(4096):
                got += data
        return got

    async with serving(certificate) as port:
        assert (await asyncio.to_thread(read_strictly, port)).endswith(b"https")
