"""The ways to write a value, each with its parser, its writer and what errors say of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from archibald_rt.settings import values

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Kind(Generic[T]):
    """One way to write a value.

    ``parse`` raises ``ValueError`` for a text it doesn't take; ``expected`` says, with an
    example, what it does take. ``show`` writes a value so that ``parse`` takes it, but
    masks secrets. A ``private`` kind may hold one: errors don't repeat what was read.
    """

    expected: str
    parse: Callable[[str], T]
    show: Callable[[T], str]
    private: bool = False


def choice(*names: str) -> Kind[str]:
    """One of ``names``, in any case."""
    return Kind(f"one of {', '.join(names)}", values.choice_parser(names), str)


def choices(*names: str) -> Kind[tuple[str, ...]]:
    """At least one of ``names``, in any case."""
    parse = values.items_parser(values.choice_parser(names), filled=True)
    return Kind(f"some of {', '.join(names)}", parse, values.show_items)


def count(largest: int = values.LARGEST_COUNT, *, smallest: int = 0, example: int) -> Kind[int]:
    """Whole numbers from ``smallest`` to ``largest``."""
    return Kind(
        f"a whole number from {smallest} to {largest}, such as {example}",
        lambda text: values.whole(text.strip(), largest, smallest),
        str,
    )


def words(expected: str, *, filled: bool = False) -> Kind[tuple[str, ...]]:
    """Any words, by comma or line; ``filled``: at least one."""
    return Kind(expected, values.items_parser(str, filled=filled), values.show_items)


def url(*schemes: str, example: str) -> Kind[str]:
    """One address; private, since it may hold a password."""
    return Kind(
        f"an address such as {example}", values.url_parser(*schemes), values.show_url, private=True
    )


def urls(*schemes: str, example: str) -> Kind[tuple[str, ...]]:
    """At least one address; private, since they may hold passwords."""
    parse = values.items_parser(values.url_parser(*schemes), filled=True)
    return Kind(f"addresses such as {example}", parse, values.show_urls, private=True)


TEXT = Kind("a text of one line", values.word, str)
BOOLEAN = Kind("true or false", values.parse_boolean, lambda value: str(value).lower())
PORT = count(values.LARGEST_PORT, example=8080)
HOST = Kind("a host name or address such as 127.0.0.1, 0.0.0.0 or ::1", values.parse_host, str)
DURATION: Kind[float] = Kind(
    "a time such as 500ms, 30s, 5m, 12h or 7d (0 turns it off)",
    values.parse_duration,
    values.show_duration,
)
SIZE = Kind(
    "a size such as 64KiB, 16MiB, 1GiB or 65536 (0 turns it off)",
    values.parse_size,
    values.show_size,
)
MODE = Kind("an octal file mode such as 0660", values.parse_mode, lambda mode: f"{mode:04o}")
PATH: Kind[Path] = Kind("a path of one line such as var/events.db", values.parse_path, str)
SOCKET_PATH: Kind[Path] = Kind(
    f"a path of at most {values.LONGEST_SOCKET_PATH} bytes such as /run/archibald/rt.sock",
    values.parse_socket_path,
    str,
)
ORIGINS = Kind(
    "origins without a path, such as https://app.example.com or https://*.example.com, or *",
    values.items_parser(values.parse_origin),
    values.show_items,
)
NETWORKS = Kind(
    "addresses or networks such as 127.0.0.1, 10.0.0.0/8",
    values.items_parser(values.parse_network),
    values.show_items,
)
STREAM_NAME = Kind("letters, digits, - and _, such as RT", values.parse_stream_name, str)
# Private although it is public: a key pasted by mistake may be the private one.
PUBLIC_KEY: Kind[str] = Kind(
    "public keys or certificates in PEM, each from a line -----BEGIN … to a line -----END …",
    values.parse_public_key,
    lambda key: key.replace("\n", "\n    "),
    private=True,
)
# White space at the ends of a secret from a file or a variable may belong to it.
SECRET: Kind[str] = Kind("a secret of one line", values.clean, values.mask, private=True)
SECRETS: Kind[tuple[str, ...]] = Kind(
    "secrets of one line each, by comma or line",
    values.items_parser(str),
    values.mask,
    private=True,
)
