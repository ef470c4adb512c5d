"""Writing the ONNX file: metadata, checks, external data; whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from opau_onnx.errors import ExportError, ValidationError
from opau_onnx.graph.names import make_unique

PROTOBUF_LIMIT = 2**31 - 2**20
"""Files with more bytes of weights than this need external data: protobuf ends at 2 GiB."""


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def save(model: ir.Model, path: Path, *, external: bool) -> None:
    """Write ``path`` and, with ``external``, ``path`` + ".data" beside it; then run onnx's checker on the file.

    Values that share a name get names of their own first (:mod:`opau_onnx.graph.names`).

    Raises:
        ExportError: the checker or the full shape inference refuses the model.
    """
    make_unique(model)
    try:
        if external:
            ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)
        else:
            path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    except OSError:
        raise
    except Exception as error:  # onnx-ir's own types
        raise ExportError(f"the model cannot be written: {_causes(error)}") from None
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        hint = ""
        if "bfloat16" in str(error):
            hint = " (older opsets know bfloat16 for few operators; try --opset 22 or newer)"
        raise ExportError(f"the exported model does not pass onnx's checker{hint}: {error}") from error


def _causes(error: BaseException) -> str:
    """An error and those behind it: onnx-ir's first one only names the model."""
    found = []
    inner: BaseException | None = error
    while inner is not None:
        found.append(f"{type(inner).__name__}: {str(inner).splitlines()[0][:200] if str(inner) else ''}")
        inner = inner.__cause__
    return "; ".join(dict.fromkeys((found[0], found[-1])))


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside ``output`` that vanishes in the end, for files that are moved out of it when they are good.

    Raises:
        ExportError: the folder of ``output`` does not exist or cannot be written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, output: Path) -> None:
    """Move the staged file, and its data before it, to where the user wants it."""
    data = staged.with_name(f"{staged.name}.data")
    if data.exists():
        data.replace(output.with_name(data.name))
    staged.replace(output)


def add_outputs(model: ir.Model, values: Sequence[ir.Value]) -> bytes:
    """The model with these values as further outputs, in order; weights of other files are taken in.

    Raises:
        ValidationError: a value whose type the file does not tell, or a model that is too large for one file.
    """
    for i, value in enumerate(values):
        if value.type is None:
            raise ValidationError(f"the file does not say of what type {value.name!r} is, so it cannot be an output")
        node = ir.node("Identity", [value], name=f"opau.tap_{i}")
        out = node.outputs[0]
        out.name, out.type, out.shape = f"opau.tap_{i}", value.type, value.shape
        model.graph.append(node)
        model.graph.outputs.append(out)
    return serialized(model)


def serialized(model: ir.Model) -> bytes:
    """A model with all its weights as bytes.

    Raises:
        ValidationError: protobuf cannot hold it.
    """
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(value.const_value.numpy(), dtype=value.const_value.dtype, name=value.name)
    try:
        return bytes(ir.to_proto(model).SerializeToString())
    except Exception as error:  # protobuf's and onnx-ir's own types
        raise ValidationError(f"the model is too large to look inside, or cannot be written: {_causes(error)}") from None
