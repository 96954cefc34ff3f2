"""A small document fetched by HTTP, without a wait for anybody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from archibald_rt.auth.jwks import Fetch, FetchError

TIMEOUT = 5.0
"""For how many seconds at most a fetch goes on, from the name's resolution to the last byte."""

LARGEST = 256 * 1024
"""How many bytes a document may have; of headers half as many."""

# What Tornado calls the end of a connection or of its time.
_NO_ANSWER = 599


@asynccontextmanager
async def fetching(*, within: float = TIMEOUT, largest: int = LARGEST) -> AsyncIterator[Fetch]:
    """Give what fetches an address, for the length of a block.

    Certificates are verified by the system's authorities; no redirect is followed, since where
    it leads nobody has configured. A fetch is ended after ``within`` seconds, or beyond
    ``largest`` bytes; the end of the block waits for one whose caller was cancelled.
    """
    # Tornado's own, and not the one that is configured for whoever embeds the server.
    client = AsyncHTTPClient(
        force_instance=True,
        max_clients=1,
        max_buffer_size=largest,
        max_header_size=largest // 2,
        max_body_size=largest,
    )
    # Tornado goes on with a request that nobody waits for, and nothing else ends it.
    underway: set[asyncio.Future[HTTPResponse]] = set()

    async def fetch(url: str) -> bytes:
        request = HTTPRequest(
            url,
            headers={"Accept": "application/json"},
            connect_timeout=within,
            request_timeout=within,
            follow_redirects=False,
            decompress_response=False,
        )
        try:
            fetched = client.fetch(request)
            underway.add(fetched)
            fetched.add_done_callback(underway.discard)
            response = await asyncio.shield(fetched)
        except HTTPClientError as error:
            answered = "" if error.code == _NO_ANSWER else f"HTTP {error.code}: "
            raise FetchError(f"{answered}{error.message}") from None
        except Exception as error:
            # The end of a stream has no text; what is too large ends one, by errors of Tornado's
            # own. Whatever an issuer answers is its fault and not ours.
            raise FetchError(str(error) or "the connection was lost") from error
        return response.body

    try:
        yield fetch
    finally:
        await asyncio.gather(*underway, return_exceptions=True)
        client.close()
