"""The JavaScript client and its types, as the public listener serves them."""

from pathlib import Path

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from support import Harness, harness

WEB = Path(__file__).parent.parent / "archibald_rt" / "web"


async def ask(server: Harness, path: str, method: str = "GET", **headers: str) -> HTTPResponse:
    return await AsyncHTTPClient().fetch(
        server.server.public_url + path, method=method, headers=headers, raise_error=False
    )


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("client.js", "text/javascript; charset=utf-8"),
        ("client.d.ts", "text/plain; charset=utf-8"),
    ],
)
@pytest.mark.gen_test
async def test_a_file_is_served_to_pages_of_any_origin(
    tmp_path: Path, name: str, content_type: str
) -> None:
    content = (WEB / name).read_bytes()
    async with harness(tmp_path) as server:
        got = await ask(server, f"/{name}", Origin="https://elsewhere.example")
        assert (got.code, got.body) == (200, content)
        assert got.headers["Content-Type"] == content_type
        assert got.headers["Access-Control-Allow-Origin"] == "*"
        assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert got.headers["Cache-Control"] == "public, max-age=300"

        head = await ask(server, f"/{name}", "HEAD")
        assert (head.code, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(content))
        assert head.headers["ETag"] == got.headers["ETag"]


@pytest.mark.gen_test
async def test_who_has_a_file_is_not_sent_it_again(tmp_path: Path) -> None:
    async with harness(tmp_path) as server:
        etag = (await ask(server, "/client.js")).headers["ETag"]
        for method in ("GET", "HEAD"):
            again = await ask(server, "/client.js", method, **{"If-None-Match": etag})
            assert (again.code, again.body) == (304, b"")
            assert again.headers["ETag"] == etag
            assert again.headers["Access-Control-Allow-Origin"] == "*"
        assert (await ask(server, "/client.js", **{"If-None-Match": '"other"'})).code == 200
        assert (await ask(server, "/client.d.ts", **{"If-None-Match": etag})).code == 200
        assert (await ask(server, "/client.js", "DELETE")).code == 405
        assert (await ask(server, "/package.json")).code == 404
