"""The durable log of events: its interface and its engines."""

from archibald_rt.eventlog.base import EventLog, KeyConflict, Lasts, Page, Retention, Stored, Turn

__all__ = ["EventLog", "KeyConflict", "Lasts", "Page", "Retention", "Stored", "Turn"]
