"""Reading a stream from one seq to another, whatever the subjects, as its leader has it."""

import asyncio

from archibald_rt.errors import LogUnavailableError
from archibald_rt.eventlog.nats.jet import Got, Jet
from archibald_rt.eventlog.nats.state import State

STEP = 1000
"""How many messages are read at once."""

STEP_BYTES = 8 * 1024 * 1024
"""After how many bytes a step ends sooner, so that large events take no more memory."""

_TRIES = 40
_PAUSE = 0.05


async def step(jet: Jet, stream: str, subject: str, *, after: int, through: int) -> list[Got]:
    """Read the messages after one seq, some of them; none if there is none up to another.

    Raises `LogUnavailableError`.
    """
    for _ in range(_TRIES):
        found, more = await jet.read(stream, subject, after=after, count=STEP, max_bytes=STEP_BYTES)
        kept = [got for got in found if got.seq <= through]
        if kept or found:
            return kept
        if not more:
            # A replica that is behind has answered, or there is no more.
            first = await jet.first(stream, subject, after=after)
            if first is None or first.seq > through:
                return []
        await asyncio.sleep(_PAUSE)
    raise LogUnavailableError("the log is unavailable: a replica stays behind")


async def read_state(jet: Jet, stream: str) -> State:
    """Read what the bucket of a log holds, at one moment or later."""
    state = State(jet, stream, revoked=_nothing, erased=_nothing)
    info = await jet.ask(f"STREAM.INFO.{state.bucket}")
    position, through = 0, 0 if info is None else info["state"]["last_seq"]
    while found := await step(jet, state.bucket, state.subjects, after=position, through=through):
        for got in found:
            await state.hear(got)
        position = found[-1].seq
    return state


def _nothing(*_: object) -> None:
    """Do nothing."""
