"""Devices disconnected and tokens revoked, on demand of the back end."""

from collections.abc import Callable

import structlog

from archibald_rt.auth import Identity
from archibald_rt.errors import DrainingError, RevocationsFullError
from archibald_rt.eventlog import EventLog, Turn
from archibald_rt.eventlog.base import Step
from archibald_rt.reception import Reception
from archibald_rt.revocations import Revocation, TokenRevocation, UserRevocation

_logger = structlog.stdlib.get_logger("archibald_rt.revoking")


class Revoker:
    """Commits a revocation, then refuses the tokens, then cuts off the devices.

    In this order nobody slips through. What could not be committed is not refused either, so
    it leaves nothing behind. Refusing and cutting off are one step of the loop: whoever
    registered before is among the devices that are cut off, whoever comes later is refused.
    And it is the step that committed which goes on with that, so that no caller who goes away
    can leave a revocation on disk that is not in force.

    ``turn`` is the order queue's.
    """

    def __init__(self, log: EventLog, turn: Turn, reception: Reception) -> None:
        self._log = log
        self._turn = turn
        self._reception = reception

    async def disconnect(
        self, user: str, *, revoke_before: int | None = None, request_id: str = ""
    ) -> int:
        """Cut off all devices of a user; returns how many.

        With a moment (in nanoseconds since 1970) the user's tokens issued before are revoked
        first. The log line has the ``request_id``. Raises `DrainingError`,
        `LogUnavailableError` (nothing was done) or `LogBrokenError` (they may have been revoked).
        """
        revocation = None if revoke_before is None else UserRevocation(user, revoke_before)
        count = await self._revoke(revocation, lambda held: held.user == user)
        if self._log.peers is not None:
            await self._log.peers.kick(user)
        _logger.info(
            "user disconnected",
            devices=count,
            revoked=revocation is not None,
            request_id=request_id,
        )
        return count

    async def revoke_token(self, token_id: str, *, expires: int, request_id: str = "") -> int:
        """Revoke one token and cut off the devices that hold it; returns how many.

        ``expires`` is when it expires, in nanoseconds since 1970; where that is past nothing is
        kept. Raises as `disconnect`, and `RevocationsFullError`.
        """
        revocation = None
        if expires >= self._reception.revocations.forgettable:
            revocation = TokenRevocation(token_id, expires)
        count = await self._revoke(revocation, lambda held: held.token_id == token_id)
        _logger.info(
            "token revoked", devices=count, expired=revocation is None, request_id=request_id
        )
        return count

    def heard(self, revocation: Revocation) -> None:
        """Refuse what was revoked by way of another server, and cut off who holds it.

        Of a user's devices those whose tokens are refused now; others may be connected by then.
        """
        revocations = self._reception.revocations
        revocations.add(revocation)
        self._reception.cut_off(revocations.revoked)

    def kicked(self, user: str) -> None:
        """Cut off the devices of a user who was disconnected by way of another server."""
        self._reception.cut_off(lambda held: held.user == user)

    async def _revoke(
        self, revocation: Revocation | None, those: Callable[[Identity], bool]
    ) -> int:
        reception, revocations = self._reception, self._reception.revocations
        if reception.draining:
            raise DrainingError("the server is going away")
        if revocation is None:
            return reception.cut_off(those)
        if not revocations.has_room(revocation):
            # It is done with the pruning, too, which may be off.
            revocations.forget(revocations.forgettable)
        if not revocations.has_room(revocation):
            raise RevocationsFullError(
                f"{revocations.tokens} tokens are revoked, and no more may be until some of them"
                " have expired; revoke all of the user's by revokeBefore"
            )
        count = 0

        async def turn(step: Step) -> int:
            async def commit_and_cut_off() -> int:
                nonlocal count
                done = await step()
                # From here on nothing is awaited.
                revocations.add(revocation)
                count = reception.cut_off(those)
                return done

            return await self._turn(commit_and_cut_off)

        await self._log.revoke(revocation, turn)
        return count
