"""``/client.js`` and its types: files of the package, for any page and any program."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Self

from archibald_rt.handlers.base import BaseHandler

MAX_AGE = 300
"""For how many seconds a file is used without a question whether it changed."""


@dataclass(frozen=True)
class Asset:
    """A file that stays the same as long as the process lives."""

    content: bytes
    content_type: str
    etag: str

    @classmethod
    def of_package(cls, name: str, content_type: str) -> Self:
        """Read a file of ``archibald_rt/web``."""
        content = files("archibald_rt").joinpath("web", name).read_bytes()
        return cls(content, content_type, f'"{sha256(content).hexdigest()[:32]}"')


class AssetHandler(BaseHandler):
    """A public file, which pages of every origin may load."""

    def initialize(self, asset: Asset) -> None:
        """Take the file."""
        self._asset = asset

    def compute_etag(self) -> str | None:
        """Return what tells this content from another; Tornado answers 304 by it."""
        return self._asset.etag

    def get(self) -> None:
        """Answer with it."""
        self.set_header("Content-Type", self._asset.content_type)
        self.set_header("Cache-Control", f"public, max-age={MAX_AGE}")
        # For pages of another origin, those that isolate themselves included.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(self._asset.content)

    head = get
