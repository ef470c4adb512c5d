"""Triton's ModelConfig of a model: the message that config.pbtxt holds and that clients ask a server for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2 as pb

from opau_onnx.protocol.tensors import TensorSpec

BACKEND = "onnxruntime"
KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU", "auto": "KIND_AUTO"}
"""Kinds of instance groups by device."""


@dataclass(frozen=True)
class QueuePolicy:
    """Triton's queue policy.

    Attributes:
        max_size: more than so many are refused; 0: no limit.
        timeout_us: how long one may wait, in microseconds; 0: no limit.
        delay: those that waited too long are put last instead of refused.
        override: a request may ask for a shorter time.
    """

    max_size: int = 0
    timeout_us: int = 0
    delay: bool = False
    override: bool = False


@dataclass(frozen=True)
class WarmUp:
    """One run on zeros before the model is ready.

    Attributes:
        rows: size of the batch; 1 where the model is not batched.
        shapes: of each input, without the batch axis where the model is batched.
    """

    rows: int
    shapes: Mapping[str, Sequence[int]]


def model_config(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    max_batch_size: int = 0,
    delay_us: int = 0,
    preferred: Sequence[int] = (),
    instances: int = 1,
    device: str = "cpu",
    library: str | None = None,
    parameters: Mapping[str, str] | None = None,
    cuda: Mapping[str, str] | None = None,
    gpus: Sequence[int] = (),
    queue: QueuePolicy | None = None,
    warmup: Sequence[WarmUp] = (),
) -> pb.ModelConfig:
    """The message. Nothing is read, and nothing is checked: see :mod:`opau_onnx.deploy.check`.

    Args:
        name: of the model, which is that of its folder.
        inputs, outputs: shapes with the batch axis; -1 for an open axis.
        max_batch_size: the most rows of one run; 0: requests are not batched, and shapes are those of the whole tensors.
        delay_us: how long a request waits for others, in microseconds.
        preferred: row counts that are run at once when they are reached.
        instances: for each device.
        device: "cpu", "cuda" or "auto" (Triton chooses).
        library: absolute path of the op library on the machine that serves; None where the model needs none.
        parameters: of the backend.
        cuda: options of onnxruntime's CUDA provider.
        gpus: on which ones; all where it is empty.
        queue: of the dynamic batcher; taken only where requests are batched.
        warmup: runs before the model is ready.
    """
    config = pb.ModelConfig(name=name, backend=BACKEND, max_batch_size=max_batch_size)
    batched = max_batch_size > 0
    for spec in inputs:
        _tensor(spec, config.input.add(), batched)
    for spec in outputs:
        _tensor(spec, config.output.add(), batched)
    if batched:
        config.dynamic_batching.preferred_batch_size.extend(preferred)
        config.dynamic_batching.max_queue_delay_microseconds = delay_us
        _queue(queue, config.dynamic_batching)
    config.instance_group.add(kind=KINDS[device], count=instances, gpus=gpus)
    if library is not None:
        config.model_operations.op_library_filename.append(library)
    for key, value in (parameters or {}).items():
        config.parameters[key].string_value = value
    if cuda:
        config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda", parameters=dict(cuda))
    for run in warmup:
        _warm(run, inputs, config.model_warmup.add())
    return config


def data_type(spec: TensorSpec) -> str:
    """The schema's name of a tensor's data type."""
    return f"TYPE_{spec.datatype}"


def _tensor(spec: TensorSpec, target: Any, batched: bool) -> None:
    target.name, target.data_type = spec.name, pb.DataType.Value(data_type(spec))
    dims = spec.shape[1:] if batched else spec.shape
    # The schema knows no empty shape: one element stands for it, and where there is a batch axis it is taken away again.
    target.dims.extend(dims or (1,))
    if batched and not dims:
        target.reshape.SetInParent()


def _queue(policy: QueuePolicy | None, batching: Any) -> None:
    if policy is None:
        return
    found = batching.default_queue_policy
    found.max_queue_size, found.default_timeout_microseconds = policy.max_size, policy.timeout_us
    found.allow_timeout_override = policy.override
    found.timeout_action = pb.ModelQueuePolicy.DELAY if policy.delay else pb.ModelQueuePolicy.REJECT


def _warm(run: WarmUp, inputs: Sequence[TensorSpec], target: Any) -> None:
    target.name, target.batch_size, target.count = f"rows: {run.rows}", run.rows, 1
    for spec in inputs:
        entry = target.inputs[spec.name]
        entry.data_type, entry.zero_data = pb.DataType.Value(data_type(spec)), True
        entry.dims.extend(run.shapes[spec.name] or (1,))


def config_json(config: pb.ModelConfig) -> dict[str, Any]:
    """The message as Triton's HTTP interface gives it: every field, and 64-bit numbers as numbers, not as JSON's strings."""
    plain = json_format.MessageToDict(config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _numbers(config.DESCRIPTOR, plain)


def _numbers(descriptor: Descriptor, plain: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(descriptor.fields_by_name[name], value) for name, value in plain.items()}


def _number(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, list):
        return [_number(field, entry) for entry in value]
    kind = field.message_type
    if kind is None:
        return int(value) if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else value
    if kind.GetOptions().map_entry:
        return {key: _number(kind.fields_by_name["value"], entry) for key, entry in value.items()}
    return _numbers(kind, value)
