"""The server's own messages to devices, as JSON: values in, bytes out, no I/O."""

import msgspec

from archibald_rt.events import Cursor
from archibald_rt.messages import (
    Close,
    CloseMessage,
    Gap,
    GapMessage,
    GapReason,
    Live,
    LiveMessage,
    Reconnect,
    ReconnectMessage,
    Renewed,
    RenewedMessage,
    Welcome,
    WelcomeMessage,
)
from archibald_rt.timestamps import Stamper, from_epoch

_encode = msgspec.json.encode


class Controls:
    """Writes them for one log's epoch, each on one line, stamped with this moment."""

    def __init__(self, epoch: str, stamp: Stamper) -> None:
        self._epoch = epoch
        self._stamp = stamp

    def cursor(self, seq: int) -> str:
        """Return the cursor of a place in the log."""
        return str(Cursor(self._epoch, seq))

    def welcome(self, position: int, connection: str, heartbeat: float, *, replay: bool) -> bytes:
        """Write ``rt.welcome``; ``heartbeat`` is in seconds."""
        payload = Welcome(self.cursor(position), connection, round(heartbeat * 1000), replay)
        return _encode(WelcomeMessage(payload, self._stamp()))

    def gap(self, requested: str, missing_through: int | None, reason: GapReason) -> bytes:
        """Write ``rt.gap``."""
        through = None if missing_through is None else self.cursor(missing_through)
        return _encode(GapMessage(Gap(requested, through, reason), self._stamp()))

    def live(self, position: int, replayed: int) -> bytes:
        """Write ``rt.live``."""
        return _encode(LiveMessage(Live(self.cursor(position), replayed), self._stamp()))

    def auth(self, expires: float | None) -> bytes:
        """Write ``rt.auth``; ``expires`` is in seconds since 1970."""
        payload = Renewed(None if expires is None else from_epoch(expires))
        return _encode(RenewedMessage(payload, self._stamp()))

    def reconnect(self, after_ms: int) -> bytes:
        """Write ``rt.reconnect``."""
        return _encode(ReconnectMessage(Reconnect(after_ms), self._stamp()))

    def close(self, code: int, reason: str) -> bytes:
        """Write ``rt.close``."""
        return _encode(CloseMessage(Close(code, reason), self._stamp()))
