"""What a log in a stream says of itself: its figures, and whether all of it can be read."""

from collections.abc import Iterator

import msgspec

from archibald_rt.errors import LogOpenError
from archibald_rt.eventlog.access import Progress, unheard
from archibald_rt.eventlog.checking import message_fault
from archibald_rt.eventlog.nats.definition import existing_stream, find_stream, milliseconds
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.losses import counts
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.remote import Where, reached
from archibald_rt.eventlog.nats.scanning import step


class Stats(msgspec.Struct, frozen=True, rename="camel"):
    """The figures of a log at one moment; see those of a file.

    ``bytes`` is what JetStream counts, keys included, of one replica; times are those of its
    messages.
    """

    epoch: str
    head: int
    events: int
    broadcasts: int
    users: int
    oldest_commit: int | None
    newest_commit: int | None
    bytes: int
    replicas: int


def read_stats(where: Where) -> Stats:
    """Read the figures of the log in a stream. Raises `LogOpenError`, `LogCopyError`."""
    with reached(where) as remote:
        return remote.run(_stats(remote.jet, remote.names))


async def _stats(jet: Jet, names: Names) -> Stats:
    opened = await existing_stream(jet, names)
    users = events = broadcasts = 0
    async for part in counts(jet, names, names.events):
        broadcasts += (everybody := part.get(names.durable(None), 0))
        events += sum(part.values())
        users += len(part) - bool(everybody)
    found = await find_stream(jet, names.stream)
    if found is None:
        raise LogOpenError(f"[nats] stream {names.stream}: it was deleted meanwhile")
    state = found["state"]
    holds = bool(state["messages"])
    return Stats(
        opened.epoch,
        state["last_seq"],
        events,
        broadcasts,
        users,
        milliseconds(state["first_ts"]) if holds else None,
        milliseconds(state["last_ts"]) if holds else None,
        state["bytes"],
        opened.replicas,
    )


def check(where: Where, *, progress: Progress = unheard) -> Iterator[str]:
    """Yield what is wrong with the log in a stream, a plain line each; nothing if it is good.

    Reads every message. What the servers' own disks say is theirs to check. Raises `LogOpenError`
    and `LogCopyError`.
    """
    with reached(where) as remote:
        jet, names = remote.jet, remote.names
        through = remote.run(existing_stream(jet, names)).last
        position = 0
        while found := remote.run(
            step(jet, names.stream, names.all, after=position, through=through)
        ):
            for got in found:
                if (fault := _fault(names, got)) is not None:
                    yield f"message {got.seq}: {fault}"
            position = found[-1].seq
            progress("checking messages", position, through)


def _fault(names: Names, got: Got) -> str | None:
    if got.subject == names.probe or names.is_fence(got.subject):
        return None
    try:
        got.data.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: {error}"
    if names.is_key(got.subject):
        return None
    if not names.is_event(got.subject):
        return f"its subject {got.subject[:60]} is no user's"
    return message_fault(got.data)
