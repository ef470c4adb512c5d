"""Metadata and statistics of the server and its models, in the protocol's messages; HTTP sends them as JSON."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

from opau_onnx._version import __version__
from opau_onnx.protocol.model_config import QueuePolicy, config_json
from opau_onnx.protocol.model_config import model_config as triton_config
from opau_onnx.serve import statistics as counts
from opau_onnx.serve.model import PLATFORM, ServedModel
from opau_onnx.serve.repository import Entry, Repository

NAME = "opau-onnx"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
"""Of the protocol, by Triton's names."""


def as_json(message: Any) -> dict[str, Any]:
    """A message as Triton's HTTP interface gives it: the same names, every field, 64-bit numbers as JSON numbers."""
    return config_json(message)


def server_metadata() -> service_pb2.ServerMetadataResponse:
    """Name, version and extensions."""
    return service_pb2.ServerMetadataResponse(name=NAME, version=__version__, extensions=EXTENSIONS)


def model_metadata(served: ServedModel) -> service_pb2.ModelMetadataResponse:
    """Inputs and outputs, with the batch axis and -1 for open axes."""
    tensor = service_pb2.ModelMetadataResponse.TensorMetadata
    return service_pb2.ModelMetadataResponse(
        name=served.name,
        versions=[served.version],
        platform=PLATFORM,
        inputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in served.inputs],
        outputs=[tensor(name=spec.name, datatype=spec.datatype, shape=spec.shape) for spec in served.outputs],
    )


def model_config(served: ServedModel) -> model_config_pb2.ModelConfig:
    """Triton's configuration that describes how the model is served; what that cannot say is in its parameters.

    No path of the server's is in it.
    """
    prepared = served.prepared
    config = triton_config(
        served.name,
        served.inputs,
        served.outputs,
        max_batch_size=prepared.max_batch_size,
        preferred=[served.batcher.full_rows] if prepared.max_batch_size else [],
        delay_us=prepared.settings.max_batch_delay_us,
        instances=len(prepared.runners),
        device="cuda" if prepared.opened.on_cuda else "cpu",
        parameters=parameters(served),
        queue=QueuePolicy(max_size=prepared.settings.max_queue, override=True),
    )
    config.platform = PLATFORM
    return config


def parameters(served: ServedModel) -> dict[str, str]:
    """Everything that the model says of itself, as text."""
    return {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in served.describe().items()}


def index(repository: Repository, *, ready: bool = False) -> service_pb2.RepositoryIndexResponse:
    """The models and their states; with ``ready`` only those that answer."""
    return service_pb2.RepositoryIndexResponse(
        models=[
            service_pb2.RepositoryIndexResponse.ModelIndex(
                name=entry.name, version=entry.settings.version, state=entry.state, reason=entry.reason
            )
            for entry in repository
            if entry.served is not None or not ready
        ]
    )


def statistics(repository: Repository, name: str = "", version: str = "") -> service_pb2.ModelStatisticsResponse:
    """Statistics of a model since the server started; of all models without a name.

    Raises:
        UnknownModelError: no such model, or not in this version.
    """
    if not name:
        return service_pb2.ModelStatisticsResponse(model_stats=[model_statistics(entry) for entry in repository])
    repository.is_ready(name, version)  # for its errors
    return service_pb2.ModelStatisticsResponse(model_stats=[model_statistics(repository.entry(name))])


def model_statistics(entry: Entry) -> service_pb2.ModelStatistics:
    """Those of one model; the queue and the computation count a request that was split once for each part."""
    found = entry.statistics
    return service_pb2.ModelStatistics(
        name=entry.name,
        version=entry.settings.version,
        last_inference=found.last,
        inference_count=found.rows,
        execution_count=found.executions,
        inference_stats=service_pb2.InferStatistics(
            success=_duration(found.success),
            fail=_duration(found.fail),
            queue=_duration(found.queue),
            **_compute(found.compute),
        ),
        batch_stats=[
            service_pb2.InferBatchStatistics(batch_size=rows, **_compute(size)) for rows, size in sorted(found.batches.items())
        ],
    )


def _compute(size: counts.BatchSize) -> dict[str, service_pb2.StatisticDuration]:
    return {
        "compute_input": _duration(size.compute_input),
        "compute_infer": _duration(size.compute_infer),
        "compute_output": _duration(size.compute_output),
    }


def _duration(duration: counts.Duration) -> service_pb2.StatisticDuration:
    return service_pb2.StatisticDuration(count=duration.count, ns=duration.ns)
