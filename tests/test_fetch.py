"""Fetching a small document: ``fetch``. (What a key set's server may do is in ``test_jwks``.)"""

import asyncio
import contextlib
from pathlib import Path

import pytest

from archibald_rt.auth.jwks import FetchError
from archibald_rt.certificates import server_context
from archibald_rt.fetch import LARGEST, fetching
from issuer import certificate_files, issuing
from support import eventually


@pytest.mark.gen_test
async def test_a_document_is_fetched_as_it_is_up_to_the_largest() -> None:
    with issuing() as server:
        async with fetching() as fetch:
            server.document = b"x" * LARGEST
            assert await fetch(server.url) == server.document
            server.document += b"x"
            with pytest.raises(FetchError):
                await fetch(server.url)


@pytest.mark.gen_test
async def test_a_redirect_is_not_followed() -> None:
    with issuing() as server, issuing() as elsewhere:
        server.status, server.headers["Location"] = 302, elsewhere.url
        async with fetching() as fetch:
            with pytest.raises(FetchError, match="HTTP 302"):
                await fetch(server.url)
        assert elsewhere.requests == 0


@pytest.mark.gen_test
async def test_the_end_waits_for_a_fetch_that_nobody_waits_for_any_more() -> None:
    with issuing() as server:
        server.stall()
        async with fetching(within=0.3) as fetch:
            cancelled = asyncio.ensure_future(fetch(server.url))
            await eventually(lambda: server.requests == 1)
            cancelled.cancel()
            await asyncio.wait([cancelled])
        # One that were still open would be warned of, and fail the test.
        server.let_go.set()


@pytest.mark.gen_test
async def test_a_fetch_ends_in_time_however_slowly_the_answer_comes() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server, fetching(within=0.3) as fetch:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchError, match="Timeout"):
            await asyncio.wait_for(fetch(f"http://127.0.0.1:{port}/"), 10)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 " + b"a" * LARGEST + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * LARGEST + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * LARGEST + b"\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["status line", "header", "headers", "nonsense", "nothing"],
)
async def test_an_answer_that_is_none_is_a_failure_and_nothing_worse(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if answer:
            # Whether it is too much is for the other side to say.
            with contextlib.suppress(ConnectionError):
                await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, fetching() as fetch:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchError) as caught:
            await fetch(f"http://127.0.0.1:{port}/")
        assert str(caught.value).isprintable()


@pytest.mark.gen_test
async def test_a_fetch_from_where_nobody_listens_says_so() -> None:
    with issuing() as gone:
        url = gone.url
    async with fetching() as fetch:
        with pytest.raises(FetchError, match="refused"):
            await fetch(url)


@pytest.mark.gen_test
async def test_a_fetch_from_a_server_whose_certificate_nobody_vouches_for_is_none(
    tmp_path: Path,
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    context = server_context(*certificate_files(tmp_path / "tls"))
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server, fetching() as fetch:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(f"https://127.0.0.1:{port}/")
