"""From ``config.ini``, the environment and the command line to :class:`Settings`.

Later sources override earlier ones key by key. Names are checked in every source; only
the value that counts in the end is read and parsed, so that an overridden ``_file`` need
not exist. All errors are one line, and none repeats what may be a secret.
"""

import configparser
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from archibald_rt.errors import ConfigError
from archibald_rt.settings.checks import check_together
from archibald_rt.settings.schema import KEYS, SECTIONS, Key, Settings

ENVIRONMENT_PREFIX = "ARCHIBALD_RT_"

_FILE_SUFFIX = "_file"
# Enough for any key or list of tokens; a device file named by mistake would never end.
_LONGEST_FILE = 2**20
_LONGEST_ECHO = 60
_LONGEST_NAME = 31
_NO_OVERRIDES: Mapping[tuple[str, str], str] = MappingProxyType({})


def load(
    path: Path | None,
    *,
    required: bool,
    environ: Mapping[str, str],
    overrides: Mapping[tuple[str, str], str] = _NO_OVERRIDES,
) -> Settings:
    """Read the configuration and check it.

    ``path`` is the ini file; one that doesn't exist is an error only if ``required``.
    ``overrides`` are the command line's, by section and key. Raises ConfigError with one
    line that names where it was read, the section, the key and what would be right.
    Whether the secrets suffice to serve is left to ``require_secrets``.
    """
    given: dict[Key, _Entry] = {}
    given.update(_collect(_from_file(path, required=required)))
    given.update(_collect(_from_environment(environ)))
    given.update(_collect(_from_overrides(overrides)))
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, entry in given.items():
        values[key.section][key.name] = _value(key, entry)
    settings = Settings(**{name: SECTIONS[name](**values[name]) for name in SECTIONS})
    check_together(settings)
    return settings


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name and a text as they were read; ``where`` is the file or the variable."""

    where: str
    section: str
    name: str
    text: str
    is_variable: bool = False

    @property
    def names_file(self) -> bool:
        return self.name not in KEYS[self.section] and self.name.endswith(_FILE_SUFFIX)

    @property
    def key_name(self) -> str:
        return self.name.removesuffix(_FILE_SUFFIX) if self.names_file else self.name


def _from_file(path: Path | None, *, required: bool) -> Iterator[_Entry]:
    if path is None:
        return
    where = _one_line(str(path))
    try:
        text = _read_text(path)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"{where}: no such file") from None
        return
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{where}: can't be read: {error.strerror}") from None
    # [DEFAULT] is given no meaning of its own, so that it is refused like any other.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ConfigError(f"{where}: {_syntax_error(error)}") from None
    for section in parser.sections():
        # Also of a section without keys, which no entry would show.
        if section not in SECTIONS:
            raise ConfigError(_unknown_section(where, section))
        for name, value in parser.items(section):
            yield _Entry(where, section, name, value)


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Entry]:
    # The longest section first: a section's name may begin with another's.
    sections = sorted(SECTIONS, key=len, reverse=True)
    for variable in sorted(environ):
        for section in sections:
            prefix = f"{ENVIRONMENT_PREFIX}{section.upper()}_"
            if not variable.startswith(prefix):
                continue
            name = variable.removeprefix(prefix).lower()
            where = _one_line(variable)
            yield _Entry(where, section, name, environ[variable], is_variable=True)
            break


def _from_overrides(overrides: Mapping[tuple[str, str], str]) -> Iterator[_Entry]:
    for (section, name), text in overrides.items():
        yield _Entry("command line", section, name, text)


def _collect(entries: Iterable[_Entry]) -> dict[Key, _Entry]:
    """Find the key of each entry of one source."""
    found: dict[Key, _Entry] = {}
    for entry in entries:
        if entry.section not in SECTIONS:
            raise ConfigError(_unknown_section(entry.where, entry.section))
        key = KEYS[entry.section].get(entry.key_name)
        if key is None:
            raise ConfigError(_unknown_key(entry))
        if key in found:
            other = found[key].where if entry.is_variable else found[key].name
            raise ConfigError(
                f"{entry.where}: [{entry.section}] {entry.name}: already set by {other};"
                " keep one of them"
            )
        found[key] = entry
    return found


def _value(key: Key, entry: _Entry) -> Any:
    where, text = entry.where, entry.text
    if entry.names_file:
        where, text = _from_named_file(key, entry)
    try:
        return key.parse(text)
    except ValueError:
        # What a file holds may be anything, so it isn't repeated either.
        private = key.kind.private or entry.names_file
        read = "this" if private else repr(text[:_LONGEST_ECHO])
        hint = " (an indented line continues the one above it)" if "\n" in text.strip() else ""
        # Without its context: that may hold the text.
        raise ConfigError(
            f"{where}: [{key.section}] {key.name}: {read} can't be used;"
            f" expected {key.kind.expected}{hint}"
        ) from None


def _from_named_file(key: Key, entry: _Entry) -> tuple[str, str]:
    where = f"{entry.where}: [{key.section}] {entry.name}"
    if not entry.text.strip():
        raise ConfigError(
            f"{where}: names no file; expected a path such as /run/secrets/{key.name}"
        )
    path = entry.text.strip()
    shown = _one_line(path)
    try:
        text = _read_text(Path(path))
    except ValueError as error:
        raise ConfigError(f"{where}: {shown}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {shown} can't be read: {error.strerror}") from None
    # Editors and `echo` end a file with one line break; more of them were meant.
    text = text.removesuffix("\n").removesuffix("\r")
    return f"{entry.where} ({shown})", text


def _read_text(path: Path) -> str:
    """Read a UTF-8 file; OSError, or ValueError with a reason that repeats nothing of it."""
    if "\0" in str(path):
        raise ValueError("a path can hold no zero byte")
    with path.open("rb") as file:
        content = file.read(_LONGEST_FILE + 1)
    if len(content) > _LONGEST_FILE:
        raise ValueError("is larger than 1MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8") from None


def _syntax_error(error: configparser.Error) -> str:
    # Their own messages are several lines and repeat the line, which may hold a secret.
    match error:
        case configparser.DuplicateOptionError():
            name = _one_line(f"[{error.section}] {error.option}")
            return f"line {error.lineno}: {name} is set a second time"
        case configparser.DuplicateSectionError():
            name = _one_line(f"[{error.section}]")
            return f"line {error.lineno}: {name} begins a second time"
        case configparser.MissingSectionHeaderError():
            return f"line {error.lineno}: a key before the first section, such as [server]"
        case configparser.ParsingError() if error.errors:
            line, _ = error.errors[0]
            return f"line {line}: expected [section], key = value, or a comment after # or ;"
        case _:
            return "is no configuration file"


def _unknown_section(where: str, section: str) -> str:
    nearest = _nearest(section.lower(), SECTIONS)
    return f"{where}: there is no section [{_name(section)}]; the nearest is [{nearest}]"


def _unknown_key(entry: _Entry) -> str:
    suffix = _FILE_SUFFIX if entry.names_file else ""
    name = entry.key_name.lower()
    # A right key in the wrong section is likelier than a misspelt one.
    homes = [section for section, keys in KEYS.items() if name in keys]
    section = entry.section if entry.section in homes or not homes else homes[0]
    nearest = f"{_nearest(name, KEYS[section])}{suffix}"
    right = f"[{section}] {nearest}"
    if entry.is_variable:
        right = f"{ENVIRONMENT_PREFIX}{section}_{nearest}".upper()
    return (
        f"{entry.where}: [{entry.section}] has no key {_name(entry.name)}; the nearest is {right}"
    )


def _name(text: str) -> str:
    # A line of base64 that should have been indented is read as a key, and may be a secret: of
    # 32 bytes at least. No name of ours is as long.
    shown = _one_line(text)
    return shown if len(shown) <= _LONGEST_NAME else f"of {len(shown)} characters"


def _nearest(name: str, known: Iterable[str]) -> str:
    # A cutoff of 0 always finds one.
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)
