"""Logs with a long past, made in seconds."""

from pathlib import Path

from archibald_rt.eventlog.schema import open_writer, read_epoch

# The seqs of a recursive series; every tenth event is somebody else's.
_EVENTS = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO events (user, seq, instant, tail)
SELECT CAST(iif(i % 10 = 0, 'other-' || (i * 7919 % 1000), :user) AS BLOB), i, 0,
       CAST('"type":"JOB_COMPLETED","payload":{"jobId":"' || i || '","operation":"submit-order"},'
            || '"timestamp":"2026-01-01T00:00:00.000Z"}' AS BLOB)
FROM n
"""
_COMMITS = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO commits (seq, user, committed)
SELECT i, CAST(iif(i % 10 = 0, 'other-' || (i * 7919 % 1000), :user) AS BLOB), :now FROM n
"""
_GROUP = 50_000


def fill(log: Path, user: str, count: int, *, now_ms: int) -> str:
    """Make a log with so many events of a user, among others', committed at an instant.

    Returns its epoch. Of ten seqs one is another user's.
    """
    connection = open_writer(log)
    try:
        # Nothing is lost if this process ends meanwhile but what it can make again.
        connection.execute("PRAGMA synchronous = OFF")
        last = count + (count - 1) // 9
        for first in range(1, last + 1, _GROUP):
            values = {"first": first, "last": min(last, first + _GROUP - 1), "user": user}
            connection.execute("BEGIN")
            connection.execute(_EVENTS, values)
            connection.execute(_COMMITS, values | {"now": now_ms})
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return read_epoch(connection)
    finally:
        connection.close()
