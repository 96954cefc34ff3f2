"""The Python client: an async iterator over one user's events."""

from archibald_rt.client.client import Client, Item
from archibald_rt.client.messages import ClientClosedError, ClientError, Gap, Live, ReceivedEvent

__all__ = [
    "Client",
    "ClientClosedError",
    "ClientError",
    "Gap",
    "Item",
    "Live",
    "ReceivedEvent",
]
