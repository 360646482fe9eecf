"""Traces of launches for an OpenTelemetry collector: from a submission to the first step.

Each process records its times in the database or in a report. The API sends the spans once the
last time is known, so that nothing on the cluster needs to reach the collector.
"""

import hashlib
import os
import threading
from datetime import datetime

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from api.client_versions import VERSION
from service.execution.launches import Launch


class LaunchTracer:
    """Sends in a thread of its own, to where OpenTelemetry's variables of the environment say.

    What a collector that is away does not take is lost.
    """

    def __init__(self) -> None:
        self._ids = _AttemptIds()
        self._lock = threading.Lock()
        name = os.environ.get("OTEL_SERVICE_NAME", "resnetd")
        self._provider = TracerProvider(
            sampler=sampling.ALWAYS_ON,
            resource=Resource.create({"service.name": name, "service.version": VERSION}),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("resnetd")

    def send(self, launch: Launch) -> None:
        attributes: dict[str, str | int] = {
            "resnetd.job_id": launch.job_id,
            "resnetd.attempt_id": launch.attempt_id,
            "resnetd.runner_id": launch.runner_id or "",
            "resnetd.kind": launch.kind,
            "resnetd.dataset": launch.dataset,
            "resnetd.num_workers": launch.num_workers,
        }
        begins_at, ends_at = launch.phases[0].begins_at, launch.phases[-1].ends_at
        with self._lock:
            self._ids.trace_id = make_trace_id(launch.attempt_id)
            root = self._tracer.start_span(
                "launch", attributes=attributes, start_time=_nanoseconds(begins_at)
            )
            for phase in launch.phases:
                span = self._tracer.start_span(
                    phase.name,
                    context=trace.set_span_in_context(root),
                    attributes={"resnetd.process": phase.process},
                    start_time=_nanoseconds(phase.begins_at),
                )
                span.end(_nanoseconds(phase.ends_at))
            root.end(_nanoseconds(ends_at))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def make_trace_id(attempt_id: str) -> int:
    """The first half of the SHA-256 of the attempt's id: so its trace is found without a search."""
    return int.from_bytes(hashlib.sha256(attempt_id.encode()).digest()[:16])


class _AttemptIds(RandomIdGenerator):
    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def is_trace_id_random(self) -> bool:
        return False


def _nanoseconds(at: datetime) -> int:
    return round(at.timestamp() * 1e6) * 1000
