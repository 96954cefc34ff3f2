"""The Python client: an async iterator over one user's events."""

from archibald_rt.client.client import Client
from archibald_rt.client.messages import (
    ClientClosedError,
    ClientError,
    Gap,
    Item,
    Live,
    ReceivedEvent,
)

__all__ = [
    "Client",
    "ClientClosedError",
    "ClientError",
    "Gap",
    "Item",
    "Live",
    "ReceivedEvent",
]
