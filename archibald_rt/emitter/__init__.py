"""The Python emitter: events to users' devices, gathered into batches by themselves."""

from archibald_rt.emitter.emitter import Emitter
from archibald_rt.emitter.messages import (
    EmissionRefusedError,
    Emitted,
    EmitterClosedError,
    EmitterError,
    NotEmittedError,
    OutcomeUnknownError,
)

__all__ = [
    "EmissionRefusedError",
    "Emitted",
    "Emitter",
    "EmitterClosedError",
    "EmitterError",
    "NotEmittedError",
    "OutcomeUnknownError",
]
