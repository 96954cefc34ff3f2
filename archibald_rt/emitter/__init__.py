"""The Python emitter: events to users' devices, gathered into batches by themselves."""

from archibald_rt.emitter.emitter import Emitter
from archibald_rt.emitter.jobs import AsyncJob, Job
from archibald_rt.emitter.messages import (
    EmissionRefusedError,
    Emitted,
    EmitterClosedError,
    EmitterError,
    NotEmittedError,
    OutcomeUnknownError,
)
from archibald_rt.emitter.sync import SyncEmitter, SyncJob

__all__ = [
    "AsyncJob",
    "EmissionRefusedError",
    "Emitted",
    "Emitter",
    "EmitterClosedError",
    "EmitterError",
    "Job",
    "NotEmittedError",
    "OutcomeUnknownError",
    "SyncEmitter",
    "SyncJob",
]
