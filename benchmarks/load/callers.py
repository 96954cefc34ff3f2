"""Plays callers of the Python emitter: run by the Python whose archibald_rt is measured.

Its arguments are the internal listener's URL, how many callers and how many events a round; the
emit token comes by the environment. It prints a line when it is ready; then for each line on
stdin it emits a round's events and prints how many seconds that took.
"""

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack
from importlib import import_module

PAYLOAD = {
    "jobId": "00000000-0000-0000-0000-000000000000",
    "operation": "submit-order",
    "message": "The order was submitted.",
    "progress": 100,
}


async def main(url: str, callers: int, events: int) -> None:
    """Play rounds until stdin ends."""
    # By name: versions before it have no such module, which is theirs to say when it runs.
    emitter_type = import_module("archibald_rt.emitter").Emitter
    async with AsyncExitStack() as stack:
        emitter = await stack.enter_async_context(emitter_type(url, os.environ["BENCH_EMIT_TOKEN"]))

        async def call(numbers: range) -> None:
            for number in numbers:
                await emitter.emit(f"user-{number % 1000}", "JOB_COMPLETED", PAYLOAD)

        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            began = time.perf_counter()
            await asyncio.gather(*(call(range(each, events, callers)) for each in range(callers)))
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
