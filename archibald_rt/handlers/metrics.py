"""``/metrics``."""

from archibald_rt.auth import BearerTokens
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.scrape import Scraper


class MetricsHandler(InternalHandler):
    """The server in figures, for Prometheus."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, scraper: Scraper
    ) -> None:
        """Take the tokens and what is measured."""
        super().initialize(emit_tokens, read_tokens)
        self._scraper = scraper

    async def get(self) -> None:
        """Answer in the format that is asked for."""
        media_type, text = await self._scraper.scrape(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", media_type)
        self.finish(text)
