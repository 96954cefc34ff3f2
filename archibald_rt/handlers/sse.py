"""``GET /events``: devices by Server-Sent Events."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from archibald_rt.auth import Identity
from archibald_rt.device import refused
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, CloseCode, Refusal
from archibald_rt.eventstream import StreamHandler
from archibald_rt.handlers.base import BaseHandler
from archibald_rt.reception import Reception
from archibald_rt.sse import Sse
from archibald_rt.streamdevice import GONE_AFTER, StreamDevice

_METHODS = "GET, HEAD, OPTIONS"
# What a page may send besides: those that read the stream by `fetch` have the token there.
_HEADERS = "Authorization, Cache-Control, Last-Event-ID"
_REMEMBERED = 7200
"""For how many seconds a browser may remember that; no browser does for longer than this."""

_GOING_AWAY = (CloseCode.GOING_AWAY, "Server going away")


class EventsHandler(BaseHandler, StreamHandler):
    """The request that one device's stream answers."""

    def initialize(self, reception: Reception, dialect: Sse) -> None:
        """Take what all devices share."""
        self._reception = reception
        self._dialect = dialect

    def prepare(self) -> None:
        """Refuse pages of a foreign origin."""
        origin = self.request.headers.get("Origin")
        if origin is not None and not self._reception.admits(origin, self._host):
            detail = "Origin: pages of this origin may not connect"
            self.problem(HTTPStatus.FORBIDDEN, detail, field="Origin")
            return
        self._set_cors()

    def options(self) -> None:
        """Tell a browser what its page may send (the Fetch standard's preflight request)."""
        self.set_header("Allow", _METHODS)
        if "Access-Control-Allow-Origin" in self._headers:
            self.set_header("Access-Control-Allow-Methods", _METHODS)
            self.set_header("Access-Control-Allow-Headers", _HEADERS)
            self.set_header("Access-Control-Max-Age", str(_REMEMBERED))
        self.set_status(HTTPStatus.NO_CONTENT)
        self.finish()

    async def head(self) -> None:
        """Answer as `get` would, without a stream."""
        try:
            if self._admits_address():
                await self._identity()
        except AuthError:
            self._refuse()
            return
        self.set_stream_headers()
        # Before it is finished, which would give it a length.
        self.flush()

    async def get(self) -> None:
        """Let the device in, or say why not.

        By a status only where it is to ask for another token first, or can't come back at all: a
        browser's `EventSource` never does after one.
        """
        if not self._admits_address():
            # Before the token is looked at: that is what a flood would be made to cost us.
            self._stream(lambda device: device.begin(None, Resume(), crowded=True))
            return
        try:
            identity = await self._identity()
        except AuthError as error:
            if self._reception.draining and error.reason is Refusal.UNKNOWN_KEY:
                # It was not waited for to the end: the next server may know the key.
                self._stream(lambda device: device.turn_away(*_GOING_AWAY))
            else:
                self._refuse()
            return
        resume = Resume(event_id=self._last_event_id() or None)
        self._stream(lambda device: device.begin(identity, resume, request_id=self.request_id))

    def _admits_address(self) -> bool:
        return self._reception.limits.admits_address(self.request.remote_ip or "")

    async def _identity(self) -> Identity:
        reception = self._reception
        try:
            return await reception.identify_in_time(self.user_token())
        except AuthError as error:
            refused(reception, error, self.request.remote_ip, self.request_id)
            raise

    def _refuse(self) -> None:
        self.set_header("WWW-Authenticate", "Bearer")
        self.problem(HTTPStatus.UNAUTHORIZED, "Authentication failed")

    def _last_event_id(self) -> str:
        """Return where the device asks to resume: by the header, which a browser sends itself."""
        # The standard has it in UTF-8; Tornado reads headers as Latin-1.
        header = self.request.headers.get("Last-Event-ID", "").encode("latin-1")
        return header.decode("utf-8", "replace") or self.query("lastEventId")

    def _stream(self, let_in: Callable[[StreamDevice], None]) -> None:
        reception, tuning = self._reception, self._reception.tuning
        stream = self.begin_stream(
            reception.tick,
            reception.budget,
            limit=tuning.max_outbox,
            gone_after=GONE_AFTER * tuning.stall_timeout,
        )
        if stream is None:
            return
        device = StreamDevice(stream, reception, self._dialect, self.request.remote_ip)
        stream.start(device)
        try:
            let_in(device)
        except BaseException:
            stream.abort()
            raise

    def problem(
        self, status: int, detail: str, *, title: str | None = None, **members: Any
    ) -> None:
        """Finish with a problem document that an allowed page can read."""
        self._set_cors()
        super().problem(status, detail, title=title, **members)

    def _set_cors(self) -> None:
        origin = self.request.headers.get("Origin")
        for name, value in self._reception.cors_headers(origin, self._host).items():
            self.set_header(name, value)

    @property
    def _host(self) -> str:
        return self.request.headers.get("Host", "")
