"""From the text of a setting to its value, and from the value to text again: no I/O.

A function that parses takes the text as it was read, with the white space around it, and
raises ``ValueError`` for whatever it doesn't take. One that shows writes a value as one
would write it in ``config.ini``: parsing that gives the same value again.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

MASK = "***"

# A century and 8 EiB: far above any sensible setting, still exact in the float of a timer
# and in SQLite's 64-bit integers.
_LONGEST_MS = 36500 * 86_400_000
_LARGEST_SIZE = 2**63 - 1
LARGEST_COUNT = 2**31 - 1
LARGEST_PORT = 65535
# sun_path holds 108 bytes on Linux, with the zero byte at its end.
LONGEST_SOCKET_PATH = 107

_DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_SIZE_UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}

_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://((?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?"
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")


def clean(text: str) -> str:
    """Return ``text`` if it is one line without control characters or lone surrogates."""
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
        raise ValueError
    return text


def word(text: str) -> str:
    """Return ``text`` without the white space around it, if anything is left."""
    text = clean(text.strip())
    if not text:
        raise ValueError
    return text


def whole(text: str, largest: int, smallest: int = 0) -> int:
    """Return the whole number ``text`` writes in plain digits."""
    # int() alone would also take signs, underscores and other alphabets' digits.
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError
    number = int(text)
    if not smallest <= number <= largest:
        raise ValueError
    return number


def parse_duration(text: str) -> float:
    """Return seconds from ``500ms``, ``30s``, ``5m``, ``12h``, ``7d``, or a bare ``0``."""
    text = text.strip()
    if text == "0":
        return 0.0
    match = re.fullmatch(r"([0-9]+) ?(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError
    unit = _DURATION_UNITS[match[2]]
    return whole(match[1], _LONGEST_MS // unit) * unit / 1000


def show_duration(seconds: float) -> str:
    """Write seconds in the largest unit that needs no fraction."""
    milliseconds = round(seconds * 1000)
    for name, unit in _DURATION_UNITS.items():
        if milliseconds and milliseconds % unit == 0:
            return f"{milliseconds // unit}{name}"
    return "0"


def parse_size(text: str) -> int:
    """Return bytes from ``64KiB``, ``16MiB``, ``1GiB``, ``1TiB`` or plain digits."""
    match = re.fullmatch(r"([0-9]+) ?([KMGT]i)?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError
    unit = _SIZE_UNITS[match[2].capitalize() + "B"] if match[2] else 1
    return whole(match[1], _LARGEST_SIZE // unit) * unit


def show_size(size: int) -> str:
    """Write bytes in the largest unit that needs no fraction."""
    for name, unit in _SIZE_UNITS.items():
        if unit > 1 and size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def parse_boolean(text: str) -> bool:
    """Return what ``true``, ``yes``, ``on``, ``1`` and their opposites say, in any case."""
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError from None


def parse_mode(text: str) -> int:
    """Return the permissions that ``0660``, ``660`` or ``0o660`` writes."""
    match = re.fullmatch(r"(?:0o|0)?([0-7]{3})", text.strip())
    if match is None:
        raise ValueError
    return int(match[1], 8)


def parse_host(text: str) -> str:
    """Return a host name or an address; an IPv6 address stands without brackets."""
    text = word(text)
    if ":" in text:
        ipaddress.IPv6Address(text)
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise ValueError
    return text


def parse_network(text: str) -> str:
    """Return an address or a network such as ``10.0.0.0/8``."""
    ipaddress.ip_network(text, strict=False)
    return text


def parse_origin(text: str) -> str:
    """Return an origin as browsers send it, or ``*`` (any) or ``null`` (opaque ones).

    In place of the first labels of a host a ``*.`` stands for any subdomains.
    """
    # Browsers send scheme and host in lower case and leave the scheme's own port out; an
    # origin kept in another spelling would never be met.
    text = text.lower()
    if text in {"*", "null"}:
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError
    scheme, host, port = match.groups()
    if port is None or whole(port, LARGEST_PORT) == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def url_parser(*schemes: str) -> Callable[[str], str]:
    """Make a parser of addresses of these schemes."""

    def parse(text: str) -> str:
        text = word(text)
        parts = urlsplit(text)
        if parts.scheme not in schemes or not parts.hostname or " " in text:
            raise ValueError
        if parts.port == 0:
            raise ValueError
        return text

    return parse


def show_url(url: str) -> str:
    """Write an address with its user and password masked."""
    return _URL_CREDENTIALS.sub(f"{MASK}@", url)


def parse_path(text: str) -> Path:
    """Return a path; ``~`` has no meaning."""
    return Path(word(text))


def parse_socket_path(text: str) -> Path:
    """Return a path short enough for a Unix socket."""
    path = parse_path(text)
    if len(str(path).encode()) > LONGEST_SOCKET_PATH:
        raise ValueError
    return path


def parse_public_key(text: str) -> str:
    """Return PEM blocks, their lines without indentation; a private key is refused."""
    lines = [clean(line.strip()) for line in text.strip().split("\n")]
    if not (lines[0].startswith("-----BEGIN ") and lines[-1].startswith("-----END ")):
        raise ValueError
    if any("PRIVATE" in line for line in lines if line.startswith("-----BEGIN ")):
        raise ValueError
    return "\n".join(line for line in lines if line)


def parse_stream_name(text: str) -> str:
    """Return the name of a JetStream stream."""
    text = text.strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError
    return text


def choice_parser(names: Iterable[str]) -> Callable[[str], str]:
    """Make a parser of one of ``names``, in any case."""
    known = {name.lower(): name for name in names}

    def parse(text: str) -> str:
        try:
            return known[text.strip().lower()]
        except KeyError:
            raise ValueError from None

    return parse


def items_parser(
    item: Callable[[str], str], *, filled: bool = False
) -> Callable[[str], tuple[str, ...]]:
    """Make a parser of items by comma or line; ``filled`` refuses an empty list."""

    def parse(text: str) -> tuple[str, ...]:
        parts = (part.strip() for part in re.split(r"[,\n]", text))
        items = tuple(item(word(part)) for part in parts if part)
        if filled and not items:
            raise ValueError
        return items

    return parse


def show_items(items: tuple[str, ...]) -> str:
    """Write a list by commas."""
    return ", ".join(items)


def show_urls(urls: tuple[str, ...]) -> str:
    """Write addresses by commas, users and passwords masked."""
    return show_items(tuple(show_url(url) for url in urls))


def mask(secret: str | tuple[str, ...]) -> str:
    """Write a secret, or several, so that only whether there is one can be seen."""
    return MASK if secret else ""
