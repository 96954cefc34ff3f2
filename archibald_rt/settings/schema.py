"""Every setting there is: one frozen section object per section of ``config.ini``.

An attribute has the name of its key and the default of ``docs/configuration.md``; the
annotation says how it is written. Times are seconds, sizes bytes, 0 is off; what isn't set
is None, or an empty tuple.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from archibald_rt.settings import kinds

_Text = Annotated[str, kinds.TEXT]
_OptionalText = Annotated[str | None, kinds.TEXT]
_Boolean = Annotated[bool, kinds.BOOLEAN]
_Host = Annotated[str, kinds.HOST]
_Port = Annotated[int, kinds.PORT]
_Count = Annotated[int, kinds.count(example=1000)]
_Duration = Annotated[float, kinds.DURATION]
_Size = Annotated[int, kinds.SIZE]
_Mode = Annotated[int, kinds.MODE]
_Path = Annotated[Path, kinds.PATH]
_OptionalPath = Annotated[Path | None, kinds.PATH]
_SocketPath = Annotated[Path | None, kinds.SOCKET_PATH]
_Secrets = Annotated[tuple[str, ...], kinds.SECRETS]

_ALGORITHMS = kinds.choices(
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
_EVENT_TYPES = kinds.words("event types or patterns of them, such as *_PROGRESS, draft:submitted")
_CLAIMS = kinds.words("at least one claim, such as userId, sub", filled=True)
_WEB_ADDRESS = kinds.url("https", "http", example="https://app.example.com/path")
_NATS_ADDRESSES = kinds.urls("nats", "tls", "ws", "wss", example="nats://127.0.0.1:4222")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The public listener; ``unix_socket`` stands in for host and port."""

    host: _Host = "127.0.0.1"
    port: _Port = 8080
    unix_socket: _SocketPath = None
    unix_socket_mode: _Mode = 0o660
    tls_cert: _OptionalPath = None
    tls_key: _OptionalPath = None
    allowed_origins: Annotated[tuple[str, ...], kinds.ORIGINS] = ()
    trusted_proxies: Annotated[tuple[str, ...], kinds.NETWORKS] = ()
    max_connections: _Count = 20000
    handshake_timeout: _Duration = 10.0
    connects_per_address_per_minute: _Count = 0
    drain: _Duration = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalSettings:
    """The internal listener; ``unix_socket`` stands in for host and port."""

    host: _Host = "127.0.0.1"
    port: _Port = 8081
    unix_socket: _SocketPath = None
    unix_socket_mode: _Mode = 0o660
    emit_tokens: _Secrets = field(default=(), repr=False)
    read_tokens: _Secrets = field(default=(), repr=False)
    max_body: _Size = 16 * 2**20
    max_queue: _Size = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """How tokens are verified and what their claims mean."""

    jwt_secret: _Secrets = field(default=(), repr=False)
    jwt_public_key: Annotated[str | None, kinds.PUBLIC_KEY] = None
    jwks_url: Annotated[str | None, _WEB_ADDRESS] = field(default=None, repr=False)
    algorithms: Annotated[tuple[str, ...], _ALGORITHMS] = ("HS256",)
    issuer: _OptionalText = None
    audience: _OptionalText = None
    user_claims: Annotated[tuple[str, ...], _CLAIMS] = ("userId", "sub")
    role_claim: _Text = "role"
    admin_role: _Text = "admin"
    require_exp: _Boolean = False
    leeway: _Duration = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSettings:
    """Which event types are transient, and how big an event may be."""

    transient: Annotated[tuple[str, ...], _EVENT_TYPES] = (
        "*_PROGRESS",
        "draft:submitted",
        "draft:delta:applied",
    )
    max_event: _Size = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where the log is and how long it keeps events."""

    engine: Annotated[str, kinds.choice("sqlite", "nats")] = "sqlite"
    path: _Path = Path("var/events.db")
    max_age: _Duration = 7 * 86400.0
    max_events_per_user: _Count = 1000
    max_size: _Size = 2**30
    prune_every: _Duration = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """The bounds of each device."""

    heartbeat: _Duration = 30.0
    max_outbox: _Size = 2**20
    max_outbox_total: _Size = 256 * 2**20
    stall_timeout: _Duration = 30.0
    replay_page: _Count = 500
    devices_per_user: _Count = 20
    connects_per_user_per_minute: _Count = 120
    client_messages_per_second: _Count = 50
    max_client_message: _Size = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsSettings:
    """Where the log is with ``engine = nats``."""

    servers: Annotated[tuple[str, ...], _NATS_ADDRESSES] = field(
        default=("nats://127.0.0.1:4222",), repr=False
    )
    stream: Annotated[str, kinds.STREAM_NAME] = "RT"
    # JetStream itself allows at most five.
    replicas: Annotated[int, kinds.count(5, smallest=1, example=3)] = 1
    node: _OptionalText = None
    credentials: _OptionalPath = None
    tls_ca: _OptionalPath = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMessagesSettings:
    """Where the messages of clients go."""

    webhook_url: Annotated[str | None, _WEB_ADDRESS] = field(default=None, repr=False)
    webhook_secret: Annotated[str | None, kinds.SECRET] = field(default=None, repr=False)
    timeout: _Duration = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """What the server writes about itself."""

    level: Annotated[str, kinds.choice("debug", "info", "warning", "error", "critical")] = "info"
    format: Annotated[str, kinds.choice("text", "json")] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration; without arguments all defaults."""

    server: ServerSettings = field(default_factory=ServerSettings)
    internal: InternalSettings = field(default_factory=InternalSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    events: EventsSettings = field(default_factory=EventsSettings)
    log: LogSettings = field(default_factory=LogSettings)
    delivery: DeliverySettings = field(default_factory=DeliverySettings)
    nats: NatsSettings = field(default_factory=NatsSettings)
    client_messages: ClientMessagesSettings = field(default_factory=ClientMessagesSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: where it stands, how it is written, what it is when it isn't set."""

    section: str
    name: str
    kind: kinds.Kind[Any]
    default: Any

    def parse(self, text: str) -> Any:
        """Return the value ``text`` stands for; ValueError if it stands for none.

        Without a default an empty text means not set.
        """
        if self.default is None and not text.strip():
            return None
        return self.kind.parse(text)

    def show(self, value: Any) -> str:
        """Write ``value`` as in ``config.ini``: empty when it isn't set, secrets masked."""
        return "" if value is None else self.kind.show(value)


def _keys(section: str, section_type: type) -> Mapping[str, Key]:
    hints = get_type_hints(section_type, include_extras=True)
    return MappingProxyType(
        {
            key.name: Key(section, key.name, get_args(hints[key.name])[1], key.default)
            for key in fields(section_type)
        }
    )


SECTIONS: Mapping[str, type] = MappingProxyType(get_type_hints(Settings))

# Section name, then key name, in the order of the documentation.
KEYS: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {section: _keys(section, section_type) for section, section_type in SECTIONS.items()}
)
