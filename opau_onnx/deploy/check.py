"""Check of a model's config.pbtxt against Triton: the schema, the rules of its core, and what its onnxruntime backend compares.

The rules are those of ValidateModelConfig (src/model_config_utils.cc of triton-inference-server/core) and of ValidateInputs and
ValidateOutputs (src/onnxruntime.cc of triton-inference-server/onnxruntime_backend), as far as they concern what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from opau_onnx.errors import DeployError
from opau_onnx.protocol.model_config import BACKEND, data_type
from opau_onnx.protocol.tensors import TensorSpec

UNSERVED = ("BF16",)
"""Data types of tensors that the backend refuses: issue 8464 of triton-inference-server/server. Inside a model they may be."""


def parse(text: str) -> Any:
    """The ModelConfig of a config.pbtxt.

    Raises:
        DeployError: the text does not follow the schema.
    """
    try:
        return text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise DeployError(f"this is no ModelConfig of Triton: {error}") from None


def check(config: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Compare a ModelConfig with Triton's rules and with the tensors of the model.

    Args:
        config: the message.
        inputs, outputs: of the model, with the batch axis.

    Raises:
        DeployError: Triton would not load the model; the message says why.
    """
    _core(config)
    for what, entries, specs in (("input", config.input, inputs), ("output", config.output, outputs)):
        names, expected = [entry.name for entry in entries], [spec.name for spec in specs]
        if sorted(names) != sorted(expected):
            raise DeployError(f"config.pbtxt has the {what}s {names}; the model has {expected}")
        known = {spec.name: spec for spec in specs}
        for entry in entries:
            _tensor(config, what, entry, known[entry.name])
    for run in config.model_warmup:
        _warm(config, run, {spec.name: spec for spec in inputs})


def _core(config: Any) -> None:
    if not config.name or config.backend != BACKEND or config.platform:
        raise DeployError(f"config.pbtxt needs a name and the backend {BACKEND!r}, and no platform")
    largest = config.max_batch_size
    sizes = list(config.dynamic_batching.preferred_batch_size)
    if any(not 1 <= size <= largest for size in sizes):
        raise DeployError(f"preferred batch sizes are {sizes}; expected sizes from 1 to the largest batch, {largest}")
    for group in config.instance_group:
        if group.count < 1:
            raise DeployError(f"instances is {group.count}; expected at least 1")
        if group.gpus and group.kind != pb.ModelInstanceGroup.KIND_GPU:
            raise DeployError("GPUs are chosen for a model that does not run on the device 'cuda'")
    for path in config.model_operations.op_library_filename:
        if not PurePosixPath(path).is_absolute():
            raise DeployError(f"the op library is {path!r}; Triton needs its absolute path")


def _tensor(config: Any, what: str, entry: Any, spec: TensorSpec) -> None:
    if entry.data_type != pb.DataType.Value(data_type(spec)):
        found = pb.DataType.Name(entry.data_type)
        raise DeployError(f"config.pbtxt gives {what} {spec.name!r} as {found}; the model as {spec.datatype}")
    if spec.datatype in UNSERVED:
        raise DeployError(
            f"{what} {spec.name!r} is {spec.datatype}, which Triton's onnxruntime backend does not take; cast it to FP32 "
            "in the model, or serve the file with opau-serve"
        )
    dims = [*entry.reshape.shape] if entry.HasField("reshape") else [*entry.dims]
    if not entry.dims or any(size < 1 and size != -1 for size in (*entry.dims, *dims)):
        raise DeployError(f"{what} {spec} has an axis that Triton does not know; sizes are at least 1, or open")
    batched = config.max_batch_size > 0
    if batched and spec.shape[:1] != (-1,):
        raise DeployError(f"{what} {spec} has a fixed first axis, and cannot be batched; set the largest batch to 0")
    expected = [*spec.shape[1:]] if batched else [*spec.shape] or [1]
    if dims != expected:
        raise DeployError(f"config.pbtxt gives {what} {spec.name!r} the shape {dims}; the model {expected}")


def _warm(config: Any, run: Any, inputs: dict[str, TensorSpec]) -> None:
    if not 1 <= run.batch_size <= max(config.max_batch_size, 1):
        raise DeployError(f"a warm-up has {run.batch_size} rows; the largest batch has {config.max_batch_size}")
    if run.inputs.keys() != inputs.keys():
        raise DeployError(f"a warm-up has the inputs {sorted(run.inputs)}; the model has {sorted(inputs)}")
    for entry in config.input:
        dims = [*run.inputs[entry.name].dims]
        if len(dims) != len(entry.dims) or any(want not in (-1, size) for size, want in zip(dims, entry.dims, strict=True)):
            raise DeployError(f"a warm-up gives {inputs[entry.name]} the shape {dims}, without the batch")
