"""Plays cases: starts the contenders side by side and has them do their rounds in turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.load.process import Load, WorkError, loading
from benchmarks.logs import Logs
from benchmarks.peers.base import NotStartedError, Peer, Secrets, Start
from benchmarks.results import Contender, Outcome


@dataclass(frozen=True)
class Effort:
    """How much is done."""

    rounds: int
    quick: bool
    rows: int
    """Of the largest log."""


@dataclass(frozen=True)
class Seat:
    """A contender with what it takes to start it."""

    case: Case
    peer: Peer
    start: Start
    parameters: dict[str, Any]
    contender: Contender

    @contextmanager
    def prepared(self) -> Iterator[Load]:
        """Start its server and its load, ready for a round."""
        with ExitStack() as servers:
            at = servers.enter_context(self.peer.start(self.start))
            with loading(self.case.work, at, self.parameters) as load:
                load.prepare()
                if self.case.restart:
                    servers.close()
                    load.move(servers.enter_context(self.peer.start(self.start)))
                yield load


def play(
    case: Case,
    peers: Sequence[Peer],
    logs: Logs,
    folder: Path,
    effort: Effort,
    say: Callable[[str], None],
) -> Outcome:
    """Measure a case on the peers that it is for, their rounds alternating.

    A peer that fails is out of the case, which its contender says, and the others go on.
    """
    seats = list(_seats(case, peers, logs, folder, effort))
    with ExitStack() as stack:
        loads: dict[str, Load] = {}
        for seat in seats if not case.fresh else ():
            say(f"{seat.contender.label}: preparing")
            with _noting(seat.contender):
                loads[seat.contender.label] = stack.enter_context(seat.prepared())
        for number in range(min(effort.rounds, case.most_rounds)):
            # Who goes first changes, or one would always follow the same one.
            turn = number % len(seats) if seats else 0
            for seat in seats[turn:] + seats[:turn]:
                if seat.contender.fault is not None:
                    continue
                say(f"{seat.contender.label}: round {number + 1}")
                with _noting(seat.contender), ExitStack() as once:
                    load = (
                        once.enter_context(seat.prepared())
                        if case.fresh
                        else loads[seat.contender.label]
                    )
                    seat.contender.rounds.append(load.round())
    contenders = [seat.contender for seat in seats]
    return Outcome(case.key, case.group, case.title, case.main, contenders)


def _seats(
    case: Case, peers: Sequence[Peer], logs: Logs, folder: Path, effort: Effort
) -> Iterator[Seat]:
    parameters = {**case.parameters, **(case.quick if effort.quick else {})}
    secrets = Secrets()
    for number, peer in enumerate(peers):
        if peer.kind not in case.peers:
            continue
        start = Start(folder / f"{case.key}-{number}", secrets, kept=case.kept)
        if not case.by_rows:
            contender = Contender(peer.label, peer.kind, version=peer.label)
            yield Seat(case, peer, start, parameters, contender)
            continue
        for rows in logs.sizes(effort.rows):
            of_rows = folder / f"{case.key}-{number}-{rows}"
            logs.copy(rows, of_rows / "events.db")
            yield Seat(
                case,
                peer,
                Start(of_rows, secrets),
                parameters | {"rows": rows},
                Contender(f"{peer.label}, {rows:,} rows", peer.kind, rows, peer.label),
            )


@contextmanager
def _noting(contender: Contender) -> Iterator[None]:
    """Take a failure down as its contender's fault."""
    try:
        yield
    except (NotStartedError, WorkError) as error:
        contender.fault = str(error)
