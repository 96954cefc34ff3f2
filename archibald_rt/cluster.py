"""All servers on one log, as one: what is asked of them together, and what one of them answers."""

from typing import TypeVar

import msgspec
import structlog

from archibald_rt.answers import Connections, Stats
from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.peers import Answers, Peers
from archibald_rt.figures import Figures
from archibald_rt.questions import (
    AboutConnections,
    AboutStats,
    Question,
    Shut,
    decode_question,
)
from archibald_rt.revoking import Revoker
from archibald_rt.sums import all_connections, all_stats, node_of

WITHIN = 2.0
"""For how many seconds figures of other servers are waited for."""

_logger = structlog.stdlib.get_logger("archibald_rt.cluster")
_encode = msgspec.json.encode
_T = TypeVar("_T")


class Cluster:
    """Asks all servers on a log, of which there may be just the one."""

    def __init__(self, log: EventLog, figures: Figures, revoker: Revoker) -> None:
        self._log = log
        self._figures = figures
        self._revoker = revoker

    async def stats(self) -> Stats:
        """Return the figures of all servers, as far as they answer in time."""
        own = self._figures.stats(log_bytes=await self._log.size())
        peers = self._log.peers
        if peers is None:
            return own
        answers = await _ask(peers, AboutStats())
        others = _read(answers, Stats)
        return all_stats(node_of(own, peers.name), others, _missing(answers))

    async def connections(self, about: AboutConnections) -> Connections:
        """Return who is connected to any server, as far as they answer in time."""
        own = self._figures.connections(about)
        if self._log.peers is None:
            return own
        answers = await _ask(self._log.peers, about)
        others = _read(answers, Connections)
        return all_connections(about, [own, *others], _missing(answers))

    def answer(self, question: bytes) -> bytes | None:
        """Answer another server; None is no answer: it is taken to be missing."""
        try:
            asked = decode_question(question)
        except msgspec.DecodeError as error:
            _logger.warning("another server asks what is unknown here", reason=str(error))
            return None
        if isinstance(asked, Shut):
            return _encode(self._revoker.shut(asked))
        if isinstance(asked, AboutConnections):
            return _encode(self._figures.connections(asked))
        name = "" if self._log.peers is None else self._log.peers.name
        return _encode(node_of(self._figures.stats(log_bytes=0), name))


async def _ask(peers: Peers, question: Question) -> Answers:
    return await peers.ask(_encode(question), WITHIN)


def _read(answers: Answers, kind: type[_T]) -> list[_T]:
    """Read what servers answered that serve already, and are of a version that is understood."""
    read = []
    for answer in filter(None, answers.given):
        try:
            read.append(msgspec.json.decode(answer, type=kind))
        except msgspec.DecodeError as error:
            _logger.warning("another server answers what is unknown here", reason=str(error))
    return read


def _missing(answers: Answers) -> list[str]:
    return sorted((*answers.silent, *answers.gone))
