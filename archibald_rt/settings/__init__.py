"""The configuration: ``config.ini``, the environment, the command line.

:func:`load` makes a frozen :class:`Settings` of them or raises ConfigError; nothing else
here reads anything. ``docs/configuration.md`` is the page for operators.
"""

from archibald_rt.settings.checks import require_secrets
from archibald_rt.settings.load import load
from archibald_rt.settings.report import Row, changed, describe
from archibald_rt.settings.schema import (
    AuthSettings,
    ClientMessagesSettings,
    DeliverySettings,
    EventsSettings,
    InternalSettings,
    LoggingSettings,
    LogSettings,
    NatsSettings,
    ServerSettings,
    Settings,
)

__all__ = [
    "AuthSettings",
    "ClientMessagesSettings",
    "DeliverySettings",
    "EventsSettings",
    "InternalSettings",
    "LogSettings",
    "LoggingSettings",
    "NatsSettings",
    "Row",
    "ServerSettings",
    "Settings",
    "changed",
    "describe",
    "load",
    "require_secrets",
]
