"""``POST /internal/users/<id>/disconnect`` and ``/internal/tokens/revoke``."""

from archibald_rt.auth import BearerTokens
from archibald_rt.bodies import DisconnectedBody, decode_disconnect, decode_revoke
from archibald_rt.emissions import instant_of
from archibald_rt.errors import (
    DrainingError,
    EmissionError,
    LogBrokenError,
    LogUnavailableError,
    LogUncertainError,
    RevocationsFullError,
)
from archibald_rt.handlers.body import JSON, BodyHandler
from archibald_rt.handlers.users import UserHandler
from archibald_rt.revoking import Revoker


class RevokingHandler(BodyHandler):
    """Has devices cut off, and answers when that is done how many they were."""

    def initialize(  # type: ignore[override]  # initialize takes what the route gives
        self,
        emit_tokens: BearerTokens,
        read_tokens: BearerTokens,
        revoker: Revoker,
        *,
        max_body: int,
    ) -> None:
        """Take the tokens, and who does it."""
        super().initialize(emit_tokens, read_tokens, max_body=max_body)
        self.revoker = revoker

    async def post(self) -> None:
        """Do what the body says, and answer."""
        if self._finished:
            return
        try:
            body = self.take_body()
            if body:
                self.media_type(JSON)
            count = await self.revoke(body)
        except EmissionError as error:
            self.refuse_body(error)
        except (DrainingError, LogUnavailableError, RevocationsFullError) as error:
            if isinstance(error, DrainingError):
                self.set_header("Connection", "close")
            self.refuse_for_now(f"{error}; nothing was done")
        except (LogBrokenError, LogUncertainError) as error:
            self.refuse_unknown(f"{error}; it may have been done: ask again")
        else:
            self.answer(DisconnectedBody(count))

    async def revoke(self, body: bytes) -> int:
        """Do what the body says; returns how many devices were cut off."""
        raise NotImplementedError


class DisconnectHandler(RevokingHandler, UserHandler):
    """A user's devices, whatever token they hold."""

    async def revoke(self, body: bytes) -> int:
        """Cut them off, and revoke the tokens of before a moment if there is one."""
        asked = decode_disconnect(body)
        before = None
        if isinstance(asked.revokeBefore, str):
            before = instant_of(asked.revokeBefore, "revokeBefore")
        return await self.revoker.disconnect(
            self.user, revoke_before=before, request_id=self.request_id
        )


class RevokeTokenHandler(RevokingHandler):
    """One token, and the devices that hold it."""

    async def revoke(self, body: bytes) -> int:
        """Revoke it and cut them off."""
        asked = decode_revoke(body)
        expires = instant_of(asked.expires, "expires")
        return await self.revoker.revoke_token(
            asked.jti, expires=expires, request_id=self.request_id
        )
