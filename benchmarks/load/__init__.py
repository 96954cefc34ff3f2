"""The load: a process that plays devices and emitters."""
