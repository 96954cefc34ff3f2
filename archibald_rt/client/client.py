"""A client: the events of one user as an async iterator that survives lost connections.

::

    async with Client("https://app.example.com", token, cursor=load()) as client:
        async for item in client:
            if isinstance(item, ReceivedEvent):
                handle(item)
                save(client.cursor)

Saved after handling, the cursor makes handling at least once across restarts.
"""

import asyncio
import inspect
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from random import random as uniform
from types import TracebackType
from typing import NoReturn, Self, TypeAlias

from archibald_rt.client.messages import (
    ClientClosedError,
    ClientError,
    Gap,
    Item,
    Live,
    ProtocolError,
    ReceivedEvent,
)
from archibald_rt.client.place import Place
from archibald_rt.client.socket import (
    ClientSocket,
    ConnectionEndedError,
    open_socket,
    websocket_url,
)
from archibald_rt.errors import AuthError
