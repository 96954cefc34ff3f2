"""How often users, addresses and devices may do what costs something; what is beyond, counted."""

import logging

import structlog

from archibald_rt.addresses import group_of
from archibald_rt.rates import MINUTE, SECOND, RateLimit
from archibald_rt.tally import Tally

REFUSALS_TOLD = 100
"""How many devices without a good token have a log line each, in a minute."""

_logger = structlog.stdlib.get_logger("archibald_rt.limits")


class Limits:
    """Says what is within the limits, and counts and logs what is not; a limit of 0 is off.

    Connects are by the minute, a device's messages by the second. To be closed at the end.
    """

    def __init__(
        self,
        *,
        connects_per_address: int,
        connects_per_user: int,
        devices_per_user: int,
        messages_per_device: int,
    ) -> None:
        self.connects = 0
        """How many connects were refused."""
        self.devices = 0
        """How many devices had to make room for another one of their user."""
        self.messages = 0
        """How many devices were to be ended for what they sent."""
        self.messages_per_device = messages_per_device
        self._devices_per_user = devices_per_user
        self._counts_addresses = connects_per_address > 0
        self._of_address = RateLimit(connects_per_address, MINUTE)
        self._of_user = RateLimit(connects_per_user, MINUTE)
        self._of_device = RateLimit(messages_per_device, SECOND)
        self._refusals = Tally(_logger, "device refused", at_once=REFUSALS_TOLD, level=logging.INFO)
        self._addresses = Tally(_logger, "too many connects of one address")
        self._users = Tally(_logger, "too many connects of one user")
        self._rooms = Tally(_logger, "too many devices of one user")
        self._floods = Tally(_logger, "too many messages of one device")

    def note_refusal(
        self, *, reason: str | None, detail: str, address: str | None, request_id: str
    ) -> None:
        """Log that a device had no good token; of a flood only how often."""
        self._refusals.note(reason=reason, detail=detail, address=address, request_id=request_id)

    def admits_address(self, address: str) -> bool:
        """Whether one more may connect from an address; one that is none is not counted."""
        group = group_of(address) if self._counts_addresses else ""
        if not group or self._of_address.admits(group):
            return True
        self.connects += 1
        self._addresses.note(address=address)
        return False

    def admits_user(self, user: str) -> bool:
        """Whether a user, who has proved to be that, may connect once more."""
        if self._of_user.admits(user):
            return True
        self.connects += 1
        self._users.note(user=user)
        return False

    def admits_message(self, user: str, connection: str) -> bool:
        """Whether a device may send one more message; if not it is to be ended."""
        if self._of_device.admits(connection):
            return True
        self.messages += 1
        self._floods.note(user=user, connection=connection)
        return False

    def in_excess(self, devices: int) -> int:
        """Return how many of a user's devices are to make room for one more."""
        return max(0, devices + 1 - self._devices_per_user) if self._devices_per_user else 0

    def made_room(self, user: str, connection: str) -> None:
        """Count a device that was ended for another one of its user."""
        self.devices += 1
        self._rooms.note(user=user, connection=connection)

    def close(self) -> None:
        """Log what was not logged yet. Doing it again does nothing."""
        for tally in (self._refusals, self._addresses, self._users, self._rooms, self._floods):
            tally.close()
