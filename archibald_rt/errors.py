"""The exceptions of archibald_rt and the close codes of its sockets.

::

    ArchibaldError
    ├── ConfigError            the configuration can't be used (exit 2)
    ├── ListenError            an address can't be listened on (exit 1)
    ├── AuthError              a token is missing or can't be accepted
    │   └── UnknownKeyError    its key may be in the issuer's next key set
    ├── EmissionError          an emission can't be accepted (HTTP 400, 409, 413)
    ├── QueueFullError         the order queue is full (HTTP 503)
    ├── DrainingError          the server is going away (HTTP 503)
    ├── RevocationsFullError   no more tokens can be revoked for now (HTTP 503)
    └── LogError               the event log
        ├── LogOpenError       its file can't be used (exit 1)
        │   └── LogInUseError  another process holds it (exit 1)
        ├── LogCopyError       a copy of it can't be made or read (exit 1)
        ├── LogUnavailableError  nothing was stored; later it may work again (HTTP 503)
        ├── LogUncertainError  whether it was stored is unknown; the log goes on (HTTP 504)
        └── LogBrokenError     what is stored is unknown; only a restart tells (HTTP 504, exit 1)

Whoever raises one gives a message of one line that an operator or a caller can act on.
"""

from collections.abc import Sequence
from enum import IntEnum, StrEnum


class CloseCode(IntEnum):
    """Why the server ends a connection (RFC 6455, section 7.4; 4000–4999 are our own).

    The code carries the reconnect policy: see the table in ``docs/protocol.md``.
    """

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    TOKEN_EXPIRED = 4001
    DISCONNECTED = 4002
    TOO_MANY_DEVICES = 4003
    STALLED = 4004
    TOO_MANY_MESSAGES = 4005


class Refusal(StrEnum):
    """Why a token was refused: what refusals are counted by."""

    NONE = "none"
    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown-key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    CLAIMS = "claims"
    USER = "user"
    REVOKED = "revoked"


class ArchibaldError(Exception):
    """The base of every error this package raises on purpose."""


class ConfigError(ArchibaldError):
    """The configuration can't be used; the message names the section and the key."""


class ListenError(ArchibaldError):
    """An address can't be listened on; the message names it and the cause."""


class AuthError(ArchibaldError):
    """A token is missing or can't be accepted.

    The message is for the server's own log, ``reason`` for its counters; a client, which is
    told only that authentication failed and never why, has no reason.
    """

    def __init__(self, detail: str, reason: Refusal | None = None) -> None:
        super().__init__(detail)
        self.reason = reason


class UnknownKeyError(AuthError):
    """No key is known for a token, but the issuer may have published one by now.

    Whoever can wait asks `TokenVerifier.verify_anew` before the token is refused.
    """


class EmissionError(ArchibaldError):
    """An emission can't be accepted.

    ``field`` names what is wrong as a path into the request, such as ``userId`` or
    ``[3].timestamp``; it is empty when the request as a whole can't be read. ``indexes`` are
    the places in a batch of the emissions whose keys are in conflict.
    """

    def __init__(
        self, detail: str, *, field: str = "", status: int = 400, indexes: Sequence[int] = ()
    ) -> None:
        super().__init__(detail)
        self.indexes = tuple(indexes)
        self.detail = detail
        self.field = field
        self.status = status


class QueueFullError(ArchibaldError):
    """The order queue holds all it may; nothing was queued."""


class DrainingError(ArchibaldError):
    """The server is going away and takes nothing new; nothing was queued."""


class RevocationsFullError(ArchibaldError):
    """As many tokens are revoked as may be; nothing was revoked."""


class LogError(ArchibaldError):
    """The event log can't do what it was asked to."""


class LogOpenError(LogError):
    """The log's file can't be opened as a log; the file is as it was."""


class LogInUseError(LogOpenError):
    """Another process holds the log: a server, or a command."""


class LogCopyError(LogError):
    """A backup, an export or an import can't be made; nothing of it is left behind."""


class LogUnavailableError(LogError):
    """The log can't commit or read at the moment: nothing was stored, a later try may work."""


class LogUncertainError(LogError):
    """A commit's outcome is unknown; what comes after it may work, or may not.

    ``keys`` are those with which the emissions of each group can be tried again, as if they had
    been emitted with them; None where one has to do without. It is empty where none is known.
    """

    def __init__(self, detail: str, *, keys: Sequence[Sequence[str | None]] = ()) -> None:
        super().__init__(detail)
        self.keys = keys


class LogBrokenError(LogError):
    """A commit's outcome is unknown, or the file is damaged: only a restart reads the truth."""
