"""A scrape: the metrics gathered, and written in the format that is asked for."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from archibald_rt.census import Census, take_census
from archibald_rt.errors import LogBrokenError, LogError
from archibald_rt.eventlog import EventLog
from archibald_rt.eventlog.peers import Peers
from archibald_rt.metrics import LogSample, Sources, families

PATIENCE = 2.0
"""For how many seconds a scrape waits for the log; then it goes without the log's metrics."""

_OPENMETRICS = "application/openmetrics-text"
_logger = structlog.stdlib.get_logger("archibald_rt.metrics")


class Exposition(NamedTuple):
    """Metrics as text, and the media type of its format."""

    media_type: str
    text: bytes


class ProcessFigures(ProcessCollector):
    """The process in figures, also where ``/proc`` shows nothing but processes.

    That is what ``ProcSubset=pid`` makes of it, and what the collector itself, which looks for the
    moment of the boot there, takes for a system without ``/proc``: it would yield nothing.
    """

    def __init__(self, proc: str = "/proc") -> None:
        super().__init__(proc=proc, registry=None)

    def _boot_time(self) -> float:
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Scraper:
    """Gathers the metrics of a server when it is asked to.

    ``broken`` is called when the log turns out not to be relied on.
    """

    def __init__(
        self, sources: Sources, log: EventLog, *, broken: Callable[[BaseException], None]
    ) -> None:
        self._sources = sources
        self._log = log
        self._broken = broken
        self._process = ProcessFigures()

    async def scrape(self, accept: str) -> Exposition:
        """Return the metrics of now, in OpenMetrics if the ``Accept`` names it, else as text.

        The log is read by a connection that only reads; what can't be read of it in time is left
        out. Nothing of it holds up the loop for longer than some milliseconds.
        """
        log = await self._sample()
        census = await take_census(self._sources.hub)
        # In a thread: with thousands of devices it takes milliseconds to count descriptors.
        process = await asyncio.to_thread(lambda: list(self._process.collect()))
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Gathered(self._sources, census, log, self._log.peers, process))
        if _OPENMETRICS in accept:
            text = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # untyped there
            return Exposition(CONTENT_TYPE_LATEST, text)
        return Exposition(CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))

    async def _sample(self) -> LogSample | None:
        try:
            async with asyncio.timeout(PATIENCE):
                oldest = await self._log.oldest()
            return LogSample(self._log.head, await self._log.size(), oldest)
        except LogBrokenError as error:
            self._broken(error)
        except (LogError, OSError, TimeoutError) as error:
            _logger.warning("the log's metrics are left out", reason=str(error) or "timed out")
        return None


class _Gathered(Collector):
    """What one scrape has gathered, as the registry takes it."""

    def __init__(
        self,
        sources: Sources,
        census: Census,
        log: LogSample | None,
        peers: Peers | None,
        process: Iterable[Metric],
    ) -> None:
        self._gathered = (sources, census, log, peers)
        self._process = process

    def collect(self) -> Iterable[Metric]:
        """Yield the server's metrics, then those of its process."""
        yield from families(*self._gathered)
        yield from self._process
