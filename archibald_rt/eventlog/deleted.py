"""Up to where events were deleted since the log was opened, for who would rather not ask it."""

from collections import OrderedDict

USERS = 10_000
"""Of how many users that is known apart; of all others only what was deleted of any of them."""


class Deleted:
    """The seqs up to which each user's own events may have been deleted.

    Told before it is done, and by whatever deletes: so it may be ahead of the log, never behind.
    """

    def __init__(self, *, users: int = USERS) -> None:
        self._users = users
        self._of_all = 0
        # Ordered so that the oldest is found at once: a dict looks at all that has gone before it.
        self._of: OrderedDict[bytes, int] = OrderedDict()

    def note(self, user: bytes | None, through: int) -> None:
        """Note that events up to a seq are about to be deleted, of a user or (None) of anybody."""
        if user is None:
            self._of_all = max(self._of_all, through)
            return
        self._of[user] = max(self._of.pop(user, 0), through)
        if len(self._of) > self._users:
            self.note(None, self._of.pop(next(iter(self._of))))

    def through(self, user: bytes) -> int:
        """Return the seq above which no own event of a user was deleted."""
        return max(self._of.get(user, 0), self._of_all)
