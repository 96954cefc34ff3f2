"""``/console``: a page that asks for a token and shows the server by what `/internal` answers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files

from tornado.web import HTTPError

from archibald_rt.handlers.base import BaseHandler

PAGE = "console.html"
"""The page itself, which lies at ``/console``; the others below it."""

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Scripts and styles of ours and no others, nothing made of text, and no frame around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class ConsoleFile:
    """One file as it is answered with."""

    content: bytes
    content_type: str
    etag: str


def console_files() -> Mapping[str, ConsoleFile]:
    """Read the console's files, by their names: no others can be asked for."""
    found = {}
    for each in files("archibald_rt").joinpath("web", "console").iterdir():
        kind = _TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            content = each.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[each.name] = ConsoleFile(content, kind, etag)
    return found


class ConsoleHandler(BaseHandler):
    """The page and what belongs to it. It needs no token, and holds nothing of the server's."""

    def initialize(self, files: Mapping[str, ConsoleFile]) -> None:
        """Take the files."""
        self._files = files

    def get(self) -> None:
        """Answer with a file; 304 to those who have it."""
        if self.request.path == "/console/":
            # The page's own addresses are relative to the one without; so is this, for a proxy's.
            self.redirect("../console", status=HTTPStatus.PERMANENT_REDIRECT)
            return
        name = self.request.path.removeprefix("/console").removeprefix("/")
        file = self._files.get(name or PAGE)
        if file is None or name == PAGE:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        for header, value in _HEADERS.items():
            self.set_header(header, value)
        self.set_header("Etag", file.etag)
        if self.check_etag_header():
            self.set_status(HTTPStatus.NOT_MODIFIED)
            self.finish()
            return
        self.set_header("Content-Type", file.content_type)
        self.finish(file.content)

    head = get
