"""The format of Server-Sent Events: bytes in, bytes out, no I/O.

It is a part of the HTML standard (section 9.2). A stream is made of blocks of lines, each ended by
an empty line.
"""

COMMENT = b":\n\n"
"""A block that says nothing: readers pass over it, and everybody in between sees life."""


def event(
    data: bytes, *, kind: str = "", last_id: str | None = None, retry: int | None = None
) -> bytes:
    """Write an event whose data is one line of UTF-8.

    ``kind`` is its type; without one it is a ``message``. A reader keeps ``last_id``, also past
    events that have none, and says it when it comes back, ``retry`` milliseconds after the
    connection has ended. Raises ValueError for a line break or a null in what has to be a line.
    """
    lines = []
    if retry is not None:
        lines.append(b"retry: %d\n" % retry)
    if last_id is not None:
        lines.append(b"id: %b\n" % last_id.encode())
    if kind:
        lines.append(b"event: %b\n" % kind.encode())
    lines.append(b"data: %b\n" % data)
    block = b"".join(lines)
    if b"\r" in block or b"\0" in block or block.count(b"\n") != len(lines):
        raise ValueError("what has to be a line has a line break in it")
    return block + b"\n"
