"""``/internal/stream``: all traffic as Server-Sent Events, for those who look on."""

from http import HTTPStatus

from tornado.iostream import StreamClosedError

from archibald_rt.answers import MAX_PATTERNS
from archibald_rt.auth import BearerTokens
from archibald_rt.events import MAX_TYPE, user_id_fault
from archibald_rt.handlers.base import InternalHandler
from archibald_rt.sse import COMMENT
from archibald_rt.tap import Tap
from archibald_rt.watcher import Watcher

KEEP_ALIVE = 15.0
"""After how many seconds without a message a comment is written."""

GATHER = 0.05
"""For how many seconds messages gather after some were written.

One at a time a watcher would cost a third of what emitting does; no eye sees the difference.
"""


class TrafficHandler(InternalHandler):
    """One who watches."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self, emit_tokens: BearerTokens, read_tokens: BearerTokens, tap: Tap
    ) -> None:
        """Take the tokens, and what is to be watched."""
        super().initialize(emit_tokens, read_tokens)
        self._tap = tap
        self._watcher: Watcher | None = None

    async def get(self) -> None:
        """Answer with what happens from now on, until the client or the server goes."""
        user = self.query("user") or None
        patterns = [each.decode("utf-8", "replace") for each in self._given("type") if each]
        if user is not None and (fault := user_id_fault(user)) is not None:
            self._refuse_field("user", fault)
        elif len(patterns) > MAX_PATTERNS or any(len(each) > MAX_TYPE for each in patterns):
            expected = f"expected at most {MAX_PATTERNS}, of at most {MAX_TYPE} characters"
            self._refuse_field("type", expected)
        elif (watcher := self._watch(user, patterns)) is None:
            self.refuse_for_now("as many watch as may, or the server is going away")
        else:
            await self._follow(watcher)

    def on_connection_close(self) -> None:
        """Watch no more."""
        super().on_connection_close()
        if self._watcher is not None:
            self._watcher.close()

    def _given(self, name: str) -> list[bytes]:
        return self.request.query_arguments.get(name, [])

    def _refuse_field(self, field: str, expected: str) -> None:
        self.problem(HTTPStatus.BAD_REQUEST, f"{field}: {expected}", field=field)

    def _watch(self, user: str | None, patterns: list[str]) -> Watcher | None:
        return self._tap.watch(
            user,
            patterns,
            access="emit" if self.may_emit else "read",
            admitted=lambda: self.authorized,
        )

    async def _follow(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.set_header("Content-Type", "text/event-stream")
        # Who compresses on the way holds messages back until there is enough of them.
        self.set_header("Cache-Control", "no-store, no-transform")
        self.set_header("X-Accel-Buffering", "no")
        try:
            while (data := await watcher.take(KEEP_ALIVE)) is not None:
                self.write(data or COMMENT)
                await self.flush()
                await watcher.gather(GATHER)
        except StreamClosedError:
            # The client has gone.
            return
        finally:
            watcher.close()
