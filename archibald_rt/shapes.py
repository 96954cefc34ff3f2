"""The texts and numbers that JSON bodies and messages are made of, as types. No I/O.

What a type checks by itself, msgspec checks when it decodes. What stands in its JSON Schema
besides is checked elsewhere, with a better sentence than a pattern gives (`emissions`,
`events.user_id_fault`, `timestamps`), or holds by the way it is written.
"""

from typing import Annotated, Any

from msgspec import Meta

from archibald_rt.events import CURSOR_PATTERN, MAX_USER

NO_CONTROL = r"^[^\u0000-\u001f\u007f-\u009f]*$"
"""Matches what has no control character (Unicode's category Cc)."""

_RFC_3339 = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


def _also(description: str, /, **schema: Any) -> Meta:
    """Say what is checked elsewhere."""
    return Meta(description=description, extra_json_schema=schema)


UserId = Annotated[
    str,
    _also(
        "A user's id, compared byte by byte and never normalised.",
        minLength=1,
        maxLength=MAX_USER,
        pattern=NO_CONTROL,
    ),
]
EventType = Annotated[
    str,
    Meta(min_length=1, max_length=128),
    _also(
        "What kind of event it is; what begins with `rt.` is reserved.",
        pattern=NO_CONTROL,
        **{"not": {"pattern": r"^rt\."}},
    ),
]
Key = Annotated[
    str,
    Meta(min_length=1, max_length=200),
    _also("A name without control characters.", pattern=NO_CONTROL),
]
Timestamp = Annotated[
    str,
    _also(
        "RFC 3339 with a zone and at most nine decimals.",
        format="date-time",
        pattern=_RFC_3339,
        # The format has it, the calendar hasn't.
        **{"not": {"pattern": "^0000"}},
    ),
]
CursorText = Annotated[
    str,
    _also(
        "A place in one log, `<epoch>:<seq>`: to be kept and handed back, not computed with.",
        pattern=f"^{CURSOR_PATTERN}$",
    ),
]
RequestId = Annotated[
    str,
    Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._~:/+=@-]+$"),
    _also("What the request is called, in its `X-Request-Id` and in the server's log lines."),
]
Count = Annotated[int, Meta(ge=0)]
Milliseconds = Annotated[float, Meta(ge=0)]
