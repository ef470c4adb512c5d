"""Log and trace of finished requests, for every protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opau_onnx.protocol.errors import RequestError
from opau_onnx.serve import logs
from opau_onnx.serve.service import Response
from opau_onnx.serve.tracing import Protocol, Tracer, status


class Observer:
    """Logs requests at level "debug", and records them as traces where there is a tracer."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    def ended(
        self,
        protocol: Protocol,
        headers: Mapping[Any, Any],
        model: str,
        version: str,
        started: int,
        outcome: Response | RequestError,
        request_id: str = "",
    ) -> None:
        """A request ended.

        Args:
            protocol: that it came by.
            headers: the request's, or its gRPC metadata; names in lower case, as text or bytes.
            model, version: as the client named them.
            started: when it came, in nanoseconds of ``time.perf_counter_ns``.
            outcome: its response or its error.
            request_id: the client's, if it sent one.
        """
        if self._tracer is not None:
            self._tracer.record(protocol, headers, model, version, started, outcome)
        if logs.access_is_on():
            ms = (time.perf_counter_ns() - started) / 1e6
            logs.access(protocol, model, _rows(outcome), status(protocol, outcome), ms, request_id)


def _rows(outcome: Response | RequestError) -> int:
    return 0 if isinstance(outcome, RequestError) else outcome.rows
