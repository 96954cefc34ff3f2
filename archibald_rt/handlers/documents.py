"""``/internal/openapi.json`` and ``/internal/asyncapi.json``."""

from archibald_rt.auth import BearerTokens
from archibald_rt.handlers.base import InternalHandler


class DocumentHandler(InternalHandler):
    """A document that says the same as long as the process lives."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, document: bytes
    ) -> None:
        """Take the tokens and the document."""
        super().initialize(emit_tokens, read_tokens)
        self._document = document

    def get(self) -> None:
        """Answer with it."""
        self.set_header("Content-Type", "application/json")
        self.finish(self._document)
