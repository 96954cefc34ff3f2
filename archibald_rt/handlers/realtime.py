"""``GET /ws/realtime``: devices by WebSocket, in the dialects v1 and v2."""

import socket
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from tornado.httputil import HTTPHeaders

from archibald_rt import timestamps
from archibald_rt.device import refused
from archibald_rt.ends import Resume
from archibald_rt.errors import AuthError, UnknownKeyError
from archibald_rt.handlers.base import BaseHandler
from archibald_rt.messages import SUBPROTOCOL
from archibald_rt.protocol import V1, V2, Dialect
from archibald_rt.reception import Reception
from archibald_rt.requestids import HEADER
from archibald_rt.socketdevice import SocketDevice
from archibald_rt.upgrade import SocketHandler
from archibald_rt.websocket import Connection

if TYPE_CHECKING:
    from archibald_rt.auth import Identity

_BEARER = "bearer."
_VERSION = "Sec-WebSocket-Version"


class RealtimeHandler(BaseHandler, SocketHandler):
    """The handshake of one device's WebSocket connection."""

    def initialize(self, reception: Reception, v1: V1, v2: V2) -> None:
        """Take what all devices share."""
        self._reception = reception
        self._v1, self._v2 = v1, v2
        self._identity: Identity | None = None
        self._crowded = False
        self._dialect: Dialect = v1
        # One whose key may be in the issuer's next key set.
        self._token_to_try_again = ""

    def prepare(self) -> None:
        """Read the subprotocols and the token, before the upgrade is accepted.

        A bad token is refused only after it, by a close code: a browser can read that, but
        not an HTTP status.
        """
        offered = self._offered()
        if SUBPROTOCOL in offered:
            self._dialect = self._v2
        refusal = self._refusal(offered)
        if refusal is not None:
            status, detail, field = refusal
            if status == HTTPStatus.UPGRADE_REQUIRED:
                self.set_header(_VERSION, "13")
            self.problem(status, f"{field}: {detail}", field=field)
            return
        if self.request.method != "GET":
            return
        if not self._reception.limits.admits_address(self.request.remote_ip or ""):
            # Before the token is looked at: that is what a flood would be made to cost us.
            self._crowded = True
            return
        token = self._token(offered)
        try:
            self._identity = self._reception.identify(token)
        except UnknownKeyError:
            # A handshake waits for nothing; the connection can.
            self._token_to_try_again = token
        except AuthError as error:
            refused(self._reception, error, self.request.remote_ip, self.request_id)

    def _refusal(self, offered: list[str]) -> tuple[int, str, str] | None:
        """Return why there can be no upgrade, as status, detail and header; None if there can."""
        headers = self.request.headers
        if self.request.method != "GET":
            return None
        if (refusal := _no_upgrade(headers)) is not None:
            return refusal
        if (origin := headers.get("Origin")) is not None and not self.check_origin(origin):
            return HTTPStatus.FORBIDDEN, "pages of this origin may not connect", "Origin"
        if offered and SUBPROTOCOL not in offered:
            detail = f"expected {SUBPROTOCOL} among them, or none at all"
            return HTTPStatus.BAD_REQUEST, detail, "Sec-WebSocket-Protocol"
        return None

    def check_origin(self, origin: str) -> bool:
        """Whether a page of this origin may connect."""
        return self._reception.admits(origin, self.request.headers.get("Host", ""))

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Echo v2 where it was offered, and never the entry that holds a token."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    def answer_headers(self) -> Iterable[tuple[str, str]]:
        """Return what the handshake was called."""
        return ((HEADER, self.request_id),)

    def connection_on(self, sock: socket.socket) -> Connection:
        """Return a connection with the bounds that all have."""
        reception, tuning = self._reception, self._reception.tuning
        return Connection(
            sock,
            reception.tick,
            reception.budget,
            limit=tuning.max_outbox,
            max_message=tuning.max_client_message,
        )

    def accepted(self, connection: Connection) -> SocketDevice:
        """Let the device in, or close at once."""
        device = SocketDevice(connection, self._reception, self._dialect, self.request.remote_ip)
        if self._token_to_try_again:
            device.begin_when_verified(
                self._token_to_try_again, self._resume(), self.request.remote_ip, self.request_id
            )
        else:
            device.begin(
                self._identity, self._resume(), crowded=self._crowded, request_id=self.request_id
            )
        return device

    def _offered(self) -> list[str]:
        header = self.request.headers.get("Sec-WebSocket-Protocol", "")
        return [name.strip() for name in header.split(",") if name.strip()]

    def _token(self, offered: list[str]) -> str:
        """Return the token: of the query, the header or a subprotocol entry, in this order."""
        in_entry = ""
        if SUBPROTOCOL in offered:
            entries = (name for name in offered if name.startswith(_BEARER))
            in_entry = next(entries, "").removeprefix(_BEARER)
        return self.user_token() or in_entry

    def _resume(self) -> Resume:
        if self._dialect.chained:
            return Resume(event_id=self.query("lastEventId") or None)
        text = self.query("lastEventTs")
        return Resume(later_than=timestamps.parse_lenient(text) if text else None)


def _no_upgrade(headers: HTTPHeaders) -> tuple[int, str, str] | None:
    """Return why a request is no handshake (RFC 6455, section 4.2.1), as `_refusal` does."""
    if headers.get("Upgrade", "").lower() != "websocket":
        return HTTPStatus.BAD_REQUEST, "expected websocket", "Upgrade"
    options = headers.get("Connection", "").lower().split(",")
    if "upgrade" not in (option.strip() for option in options):
        return HTTPStatus.BAD_REQUEST, "expected Upgrade", "Connection"
    if headers.get(_VERSION) != "13":
        return HTTPStatus.UPGRADE_REQUIRED, "expected 13", _VERSION
    return None
