"""Keys that are made for emissions which had none, in case the outcome of a publish stays unknown.

Such a key is not stored with its event, where it would cost a message: it says how the event is
found, if it was stored. A fence comes first, on whose absence the publish was conditional: from
then on it is stored or will never be.
"""

import re

import msgspec

from archibald_rt.errors import LogUnavailableError, LogUncertainError
from archibald_rt.eventlog.nats.jet import BATCH, GUARD, PLACE, Got, Jet, Message, SequenceError
from archibald_rt.eventlog.nats.names import Names
from archibald_rt.eventlog.nats.scanning import step

_MINTED = re.compile(r"rt-([0-9]{1,19})-([0-9a-f]{16})-([0-9]{1,4})", re.ASCII)


class Minted(msgspec.Struct, frozen=True, gc=False):
    """What such a key says: the ``place`` of a message in a ``publish``, stored after a seq."""

    after: int
    publish: str
    place: int

    def __str__(self) -> str:
        return f"rt-{self.after}-{self.publish}-{self.place}"


def parse(key: str) -> Minted | None:
    """Read a key, None for one of the emitter's own."""
    match = _MINTED.fullmatch(key)
    return None if match is None else Minted(int(match[1]), match[2], int(match[3]))


async def find(jet: Jet, names: Names, user: str | None, minted: Minted) -> Got | None:
    """Return the event a key was made for; None means that it is not stored and never will be.

    Raises `LogUnavailableError`.
    """
    subject = names.fence(minted.publish)
    try:
        through = await jet.store([Message(subject, b"", 0)])
    except LogUncertainError as error:
        # It is no event that may have been stored.
        raise LogUnavailableError(str(error)) from None
    except SequenceError:
        fence = await jet.last(names.stream, subject)
        through = 0 if fence is None else fence.seq
    position = minted.after
    while found := await step(
        jet, names.stream, names.durable(user), after=position, through=through
    ):
        for got in found:
            if _is(got, names, minted):
                return got
        position = found[-1].seq
    return None


def _is(got: Got, names: Names, minted: Minted) -> bool:
    batch = got.headers.get(BATCH)
    if batch is None:
        # By itself it was the first, and had the condition.
        return minted.place == 1 and got.headers.get(GUARD) == names.fence(minted.publish)
    return batch == minted.publish and got.headers.get(PLACE) == str(minted.place)
