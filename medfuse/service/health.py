"""Whether the service lives (/healthz), and what it does in numbers (/metrics, for Prometheus)."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import medfuse
from medfuse.service.desk import Desk
from medfuse.service.refusals import answers


def routes(desk: Desk) -> APIRouter:
    router = APIRouter(tags=["health"])
    registry = CollectorRegistry()
    registry.register(_Numbers(desk))
    ProcessCollector(registry=registry)

    @router.get("/healthz", summary="Whether the service lives", responses=answers())
    def healthz() -> dict[str, str]:
        return {"status": "ok", "version": medfuse.__version__}

    @router.get(
        "/metrics",
        summary="What is done, in Prometheus' text",
        responses=answers(),
        response_class=PlainTextResponse,
    )
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router


class _Numbers(Collector):
    """What the desk knows, read when it is asked for."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def collect(self) -> Iterable[Metric]:
        desk, tally = self._desk, self._desk.tally
        jobs = CounterMetricFamily("medfuse_jobs", "Jobs that are over", labels=["model", "status"])
        for (model, status), count in sorted(tally.jobs.items()):
            jobs.add_metric([model, status], count)
        seconds = CounterMetricFamily("medfuse_job_seconds", "Seconds that jobs took", labels=["model"])
        for model, spent in sorted(tally.seconds.items()):
            seconds.add_metric([model], spent)
        requests = CounterMetricFamily("medfuse_requests", "Requests by their answer", labels=["status"])
        for said, count in sorted(tally.requests.items()):
            requests.add_metric([said], count)
        yield from (jobs, seconds, requests)
        for name, what, value in (
            ("medfuse_queue_waiting", "Jobs that wait", desk.queues.waiting),
            ("medfuse_queue_running", "Jobs that are worked on", desk.queues.running),
            ("medfuse_queue_places", "Jobs that may wait", desk.limits.queue),
            ("medfuse_kept_bytes", "Bytes that are kept for clients", desk.store.bytes),
        ):
            yield GaugeMetricFamily(name, what, value=float(value))
