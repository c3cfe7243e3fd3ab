"""Waiting for a job as long as its client does."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request

from medfuse.service.desk import Desk
from medfuse.service.jobs import Job
from medfuse.service.refusals import Refusal


class Gone(Exception):
    """The client has hung up: there is nobody to answer."""


async def until_over(request: Request, job: Job, desk: Desk) -> None:
    """Until the job is over. A client that hangs up has cancelled it. Raises Refusal for one that failed."""
    over = asyncio.create_task(job.end())
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hung_up = not job.is_over
        for task in (over, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
        if hung_up:
            desk.queues.cancel(job)
    if hung_up:
        raise Gone
    if job.status == "failed":
        raise Refusal(422, "; ".join(job.errors))
    if job.status == "cancelled":
        raise Refusal(409, "the job was cancelled")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
