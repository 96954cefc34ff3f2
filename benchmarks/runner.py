"""Plays cases: starts the contenders side by side and has them do their rounds in turn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.load.process import Load, WorkError, loading
from benchmarks.peers.base import NotStartedError, Peer, Secrets, Start
from benchmarks.results import Contender, Outcome


@dataclass
class Seat:
    """A contender with what it takes to start it."""

    peer: Peer
    start: Start
    work: str
    parameters: Mapping[str, Any]
    contender: Contender

    @contextmanager
    def prepared(self) -> Iterator[Load]:
        """Start its server and its load, ready for a round."""
        with (
            self.peer.start(self.start) as at,
            loading(self.work, at, self.parameters) as load,
        ):
            load.prepare()
            yield load


def play(
    case: Case,
    peers: Sequence[Peer],
    folder: Path,
    *,
    rounds: int,
    quick: bool,
    say: Callable[[str], None],
) -> Outcome:
    """Measure a case on the peers that it is for, their rounds alternating.

    A peer that fails is out of the case, which its contender says, and the others go on.
    """
    parameters = {**case.parameters, **(case.quick if quick else {})}
    secrets = Secrets()
    seats = [
        Seat(
            peer,
            Start(folder / f"{case.key}-{number}", secrets, kept=case.kept),
            case.work,
            parameters,
            Contender(peer.label, peer.kind),
        )
        for number, peer in enumerate(peers)
        if peer.kind in case.peers
    ]
    with ExitStack() as stack:
        loads: dict[str, Load] = {}
        for seat in seats if not case.fresh else ():
            say(f"{seat.contender.label}: preparing")
            with _noting(seat.contender):
                loads[seat.contender.label] = stack.enter_context(seat.prepared())
        for number in range(min(rounds, case.most_rounds)):
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


@contextmanager
def _noting(contender: Contender) -> Iterator[None]:
    """Take a failure down as its contender's fault."""
    try:
        yield
    except (NotStartedError, WorkError) as error:
        contender.fault = str(error)
