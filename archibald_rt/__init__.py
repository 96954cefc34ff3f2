"""Real-time job events for the users of line-of-business web apps."""

__version__ = "0.1.0"
