"""What the server writes about itself: one line an entry, as text or JSON, on stderr."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

# Whatever looks like a token, wherever it stands: the query parameter, the header, the
# subprotocol entry, a bare JSON Web Token.
_SECRETS = re.compile(
    r"(?P<mark>\btoken=|\bbearer[ .]+)[^\s&\"'<>]+|\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?",
    re.IGNORECASE,
)


def configure(*, level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send the entries of this package and of its libraries to a stream, stderr by default.

    ``level`` is a name of `logging`, ``log_format`` is ``text`` or ``json``. Calling it again
    replaces what was set.
    """
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[structlog.typing.Processor]
    if log_format == "json":
        render = [
            structlog.processors.format_exc_info,
            mask_secrets,
            structlog.processors.JSONRenderer(),
        ]
    else:
        render = [
            structlog.processors.format_exc_info,
            mask_secrets,
            structlog.dev.ConsoleRenderer(colors=stream.isatty()),
        ]
    structlog.configure(
        processors=[
            # First, so that an entry nobody reads costs next to nothing.
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # At its debug level it writes every statement's values, payloads included.
    logging.getLogger("aiosqlite").setLevel(logging.WARNING)
    # Below it repeats malformed requests, in which a token may stand in any spelling.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)


def mask_secrets(
    _logger: Any, _name: str, entry: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Mask whatever looks like a token anywhere in an entry (a structlog processor)."""
    for key, value in entry.items():
        entry[key] = _masked(value)
    return entry


def _masked(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_masked(key): _masked(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(each) for each in value]
    text = value if isinstance(value, str) else repr(value)
    return _SECRETS.sub(lambda match: (match["mark"] or "") + "***", text)
