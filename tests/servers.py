"""Several servers on one log in JetStream, in this process."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from archibald_rt.reception import ClientMessageHook
from archibald_rt.server import Server
from archibald_rt.tap import Tap
from support import Device, Harness, eventually, harness


def settings_of(nats_url: str, stream: str, **settings: str) -> dict[str, str]:
    """Return what a server on a log is configured with; keys of ``settings`` have __ for a dot."""
    return {
        "log.engine": "nats",
        "nats.servers": nats_url,
        "nats.stream": stream,
        **{key.replace("__", "."): text for key, text in settings.items()},
    }


@asynccontextmanager
async def serving(
    folder: Path,
    overrides: Mapping[str, str],
    *,
    on_message: ClientMessageHook | None = None,
) -> AsyncIterator[Harness]:
    """Run a server, and close at the end what was connected to it."""
    async with (
        AsyncExitStack() as devices,
        harness(folder, overrides, on_message=on_message) as server,
    ):
        plainly = server.open

        async def opened(*args: Any, **options: Any) -> Device:
            return await devices.enter_async_context(await plainly(*args, **options))

        server.open = opened  # type: ignore[method-assign]  # where all are made
        yield server
        await devices.aclose()


@asynccontextmanager
async def several(folder: Path, nats_url: str, *names: str) -> AsyncIterator[list[Harness]]:
    """Run servers of these names on a log of their own."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                serving(folder, settings_of(nats_url, folder.name, nats__node=name))
            )
            for name in names
        ]
        for each in servers:
            await eventually(lambda each=each: knows(each, *names))  # type: ignore[misc]  # a lambda's default
        yield servers


async def knows(server: Harness, *names: str) -> bool:
    """Whether a server counts just the servers of these names to those on its log."""
    stats = await server.stats()
    return [each["node"] for each in stats["nodes"]] == sorted(names)


def held(server: Harness, user: str) -> int:
    """Return how many devices of a user a server of this process serves."""
    assert isinstance(server.server, Server)
    hub = server.server._reception._hub  # noqa: SLF001 - what is asked over a socket is of later
    return len(hub.sessions_of(user))


def current(server: Harness) -> bool:
    """Whether a server of this process may serve."""
    assert isinstance(server.server, Server)
    return server.server._reception.current  # noqa: SLF001 - no answer says it alone


def tap_of(server: Harness) -> Tap:
    """Return where all traffic passes at a server of this process."""
    assert isinstance(server.server, Server)
    return server.server._tap  # noqa: SLF001 - whether others send to it is not to be seen else
