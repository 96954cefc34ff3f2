"""What the settings are, for people to read."""

from typing import NamedTuple

from archibald_rt.settings.schema import KEYS, Settings


class Row(NamedTuple):
    """One setting, its value as one would write it in ``config.ini``."""

    section: str
    key: str
    value: str
    is_default: bool


def describe(settings: Settings) -> tuple[Row, ...]:
    """Return every setting in the order of the documentation.

    Secrets, and user and password in addresses, are ``***``; what isn't set is empty. The
    text of everything else parses back to the same value.
    """
    rows = []
    for section, keys in KEYS.items():
        for name, key in keys.items():
            value = getattr(getattr(settings, section), name)
            rows.append(Row(section, name, key.show(value), value == key.default))
    return tuple(rows)


def changed(before: Settings, after: Settings) -> tuple[str, ...]:
    """Return ``section.key`` of what two configurations differ in, secrets included."""
    return tuple(
        f"{section}.{name}"
        for section, keys in KEYS.items()
        for name in keys
        if getattr(getattr(before, section), name) != getattr(getattr(after, section), name)
    )
