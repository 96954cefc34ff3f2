#!/usr/bin/env python3
"""Play a whole job for one user: JOB_STARTED, JOB_PROGRESS and JOB_COMPLETED or JOB_FAILED."""

import time
import uuid

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from _http import Emitter, connection_options, run


@click.command(help=__doc__)
@connection_options
@click.option("--operation", default="submit-order", show_default=True, help="What the job does.")
@click.option("--job-id", help="The job's id; a random one when not given.")
@click.option(
    "--steps", type=click.IntRange(1, 100), default=5, show_default=True, help="Progress events."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, help="Duration."
)
@click.option("--fail", is_flag=True, help="Fail half way instead of completing.")
@click.argument("user")
def main(
    url: str,
    token: str,
    user: str,
    *,
    operation: str,
    job_id: str | None,
    steps: int,
    seconds: float,
    fail: bool,
) -> None:
    """Play one job."""
    job = job_id or uuid.uuid4().hex
    last_step = steps // 2 if fail else steps
    progress = 0
    emitter = Emitter(url, token)

    with Progress(console=Console(stderr=True)) as display:
        bar = display.add_task(escape(operation), total=100)

        def tell(kind: str, message: str) -> None:
            payload = {
                "jobId": job,
                "operation": operation,
                "progress": progress,
                "message": message,
            }
            emitter.emit({"userId": user, "type": kind, "payload": payload})
            display.update(bar, completed=progress, description=escape(message))

        tell("JOB_STARTED", f"{operation} started")
        for step in range(1, last_step + 1):
            time.sleep(seconds / steps)
            progress = round(100 * step / steps)
            tell("JOB_PROGRESS", f"step {step} of {steps}")
        if fail:
            tell("JOB_FAILED", f"{operation} failed")
        else:
            tell("JOB_COMPLETED", f"{operation} completed")
    click.echo(f"job {job} {'failed' if fail else 'completed'}")


if __name__ == "__main__":
    run(main)
