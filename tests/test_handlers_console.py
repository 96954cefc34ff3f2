"""``/console``: files known by name, under a strict policy, to whoever asks on the inside."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from archibald_rt.handlers.console import PAGE, console_files
from support import harness

FOLDER = Path(__file__).parent.parent / "archibald_rt" / "web" / "console"


@pytest.mark.gen_test
async def test_every_file_is_served_by_its_name_with_the_same_policy(tmp_path: Path) -> None:
    files = console_files()
    assert set(files) == {each.name for each in FOLDER.iterdir()}
    async with harness(tmp_path) as at:
        for path in ("/console", *(f"/console/{name}" for name in files if name != PAGE)):
            answer = await at.get(path, bearer=None)
            name = path.removeprefix("/console").removeprefix("/") or PAGE
            assert answer.code == 200
            assert answer.body == (FOLDER / name).read_bytes()
            headers = answer.headers
            assert headers["Content-Type"].partition("/")[2].partition(";")[0] in {
                *("html", "css", "javascript", "svg+xml"),
            }
            policy = dict(
                each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; ")
            )
            assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
            assert (
                policy["base-uri"] == policy["form-action"] == policy["trusted-types"] == "'none'"
            )
            for kind in ("script", "style", "connect", "img"):
                assert policy[f"{kind}-src"] == "'self'"
            assert policy["require-trusted-types-for"] == "'script'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Cache-Control"] == "no-cache"
            again = await AsyncHTTPClient().fetch(
                HTTPRequest(
                    at.server.internal_url + path, headers={"If-None-Match": headers["Etag"]}
                ),
                raise_error=False,
            )
            assert (again.code, again.body) == (304, b"")
            assert (await at.get(path, public=True)).code == 404


@pytest.mark.gen_test
async def test_nothing_else_can_be_had_by_whatever_path(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        for path in (
            *("/console/console.html", "/console/nothing.js"),
            *("/console/..", "/console/../console.py"),
            *("/console/%2e%2e%2f%2e%2e%2fapp.py", "/console/..%2f__init__.py", "/console/%00"),
            *("/console/console.html/", "/console//app.js", "/console/APP.JS", "/consolex"),
            *("/console/%2fetc%2fpasswd", "/console/app.js%00.html", "/console/\\..\\app.py"),
        ):
            url = urlsplit(at.server.internal_url)
            assert url.hostname is not None
            answer = await at.get(path, bearer=None)
            assert answer.code in {401, 404}, path
            assert b"import" not in answer.body
        # A slash too many does no harm, below whatever prefix of a proxy's.
        astray = await AsyncHTTPClient().fetch(
            at.server.internal_url + "/console/", follow_redirects=False, raise_error=False
        )
        assert (astray.code, astray.headers["Location"]) == (308, "../console")
        assert (await at.get("/console/", bearer=None)).body == (FOLDER / PAGE).read_bytes()
        post = await at.post("/console", b"{}")
        assert (post.code, post.headers["Allow"]) == (405, "GET, HEAD")


def test_the_page_has_no_script_style_or_address_of_its_own() -> None:
    page = (FOLDER / PAGE).read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]
    for script in FOLDER.glob("*.js"):
        text = script.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|"
            r"localStorage|document\.cookie|setAttribute\(.on|console\.",
            text,
        ), script.name
