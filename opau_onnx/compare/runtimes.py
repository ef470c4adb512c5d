"""One class for each runtime: whether it is here, what ran, and running a batch."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch

from opau_onnx.compare.backends import Reference, Runtime, SessionRuntime, inlined, to_numpy
from opau_onnx.compare.names import ORIGINAL
from opau_onnx.compare.validation import flatten
from opau_onnx.errors import DeviceError, LibraryError, ValidationError
from opau_onnx.graph import coverage as models
from opau_onnx.nn.casting import cast_inputs
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.library import get_library_path
from opau_onnx.runtime.session import CUDA, create_session

Model = Path | bytes


class NotRunError(ValidationError):
    """A runtime that cannot run a file.

    Attributes:
        applicable: False where there is nothing for it to do: a kernel, and a file without our op.
    """

    def __init__(self, reason: str, *, applicable: bool = True) -> None:
        super().__init__(reason)
        self.applicable = applicable


class VerifiedRuntime(Runtime):
    """A file in one runtime.

    Attributes:
        name: as in :data:`opau_onnx.compare.names.RUNTIMES`.
        keeps_nan: whether NaN must stay NaN; another's arithmetic is only told of.
        seconds: after which no further batch is begun; None for all.
        version: of the runtime.
        device, provider: where it ran, as the runtime says.
        implementation: what computed the activations.
    """

    name: ClassVar[str]
    keeps_nan: ClassVar[bool] = True
    seconds: float | None = None
    version: str
    device: str = "cpu"
    provider: str
    implementation: str

    @classmethod
    def unavailable(cls) -> str | None:
        """Why it cannot run here; None where it can."""
        return None

    @property
    def record(self) -> dict[str, str]:
        """What ran, as plain data."""
        return {k: str(getattr(self, k)) for k in ("version", "device", "provider", "implementation")}

    def close(self) -> None:
        """Give back what it holds."""


class _Ort(SessionRuntime, VerifiedRuntime):
    """onnxruntime in this process."""

    library: ClassVar[Any] = False
    device = "cpu"

    def __init__(self, model: Model, *, part: bool = False) -> None:
        session = self._session(model, part)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        self.provider = ", ".join(session.get_providers())
        found = assignments(session)
        self.implementation = ", ".join(map(str, found)) or (
            "not in onnxruntime's record" if models.read(model).nodes else "onnxruntime's own operators (no op of ours)"
        )
        self.kernel = any(a.implementation == "kernel" for a in found)
        super().__init__(session, f"{self.version}, {self.provider}, {self.implementation}")

    def _session(self, model: Model, part: bool) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other runtimes' threads want to work too
        try:
            return create_session(
                model, "cuda" if self.device == "cuda" else "cpu", library=self.library, session_options=options,
                optimize="none" if part else "layout",
            )  # fmt: skip
        except (DeviceError, LibraryError) as error:
            raise NotRunError(str(error)) from None
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise NotRunError(f"onnxruntime cannot load the file: {error}") from None


class OrtFunction(_Ort):
    """onnxruntime on the CPU without our library: function bodies."""

    name = "ort-function"


class OrtKernel(_Ort):
    """onnxruntime on the CPU with the compiled kernels."""

    name = "ort-kernel"
    library = True

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        try:
            get_library_path()
        except LibraryError as error:
            return str(error)
        return None

    def __init__(self, model: Model, *, part: bool = False) -> None:
        if not models.read(model).nodes:
            raise NotRunError("the file has no op of ours, so nothing for a kernel", applicable=False)
        super().__init__(model, part=part)
        if not self.kernel:
            raise NotRunError(f"the kernel did not run: {self.implementation}")


class OrtCuda(_Ort):
    """onnxruntime on a CUDA device, with the compiled kernels where the file has ops for them."""

    name = "ort-cuda"
    library = "auto"
    device = "cuda"

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        if CUDA not in onnxruntime.get_available_providers():
            return f"onnxruntime {onnxruntime.__version__} here has no {CUDA}"
        return None


class ReferenceEvaluator(Reference, VerifiedRuntime):
    """onnx's evaluator in numpy, slow."""

    name = "reference"

    def __init__(self, model: Model, *, part: bool = False) -> None:
        try:
            super().__init__(model)
        except Exception as error:  # protobuf's and the evaluator's own types
            raise NotRunError(f"the ReferenceEvaluator cannot load the file: {error}") from None
        self.version, self.provider = f"onnx {onnx.__version__}", "ReferenceEvaluator (numpy)"
        self.implementation = "standard operators, function bodies inlined"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        with np.errstate(all="ignore"):  # infinities are part of the range policy
            return super().run(inputs)


class OpenVino(VerifiedRuntime):
    """OpenVINO on the CPU, told to compute in float32; function bodies are inlined, since it takes standard operators only."""

    name = "openvino"
    keeps_nan = False

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        return None if importlib.util.find_spec("openvino") else "openvino is not installed: pip install openvino"

    def __init__(self, model: Model, *, part: bool = False) -> None:
        import openvino

        proto = inlined(model)
        if onnx.TensorProto.DOUBLE in {v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)}:
            raise NotRunError("OpenVINO computes a float64 file in float32", applicable=False)
        stored = {t.name for t in proto.graph.initializer}
        self.names = [v.name for v in proto.graph.input if v.name not in stored]
        try:
            core = openvino.Core()
            read = core.read_model(proto.SerializeToString())
            self.compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except Exception as error:  # OpenVINO raises RuntimeError and its own
            raise NotRunError(f"OpenVINO cannot load the file: {_first_line(error)}") from None
        self.version, self.provider = f"openvino {openvino.get_version()}", "CPU"
        self.implementation = "standard operators, function bodies inlined, float32"
        self.description = f"{self.version}, {self.provider}, {self.implementation}"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        try:
            found = self.compiled({name: _openvino_tensor(x) for name, x in zip(self.names, inputs, strict=True)})
            return [_openvino_array(found[output], output) for output in self.compiled.outputs]
        except Exception as error:
            raise NotRunError(f"OpenVINO cannot run the file: {_first_line(error)}") from None


def _openvino_tensor(x: torch.Tensor) -> Any:
    """OpenVINO would take numpy's bfloat16 for float16."""
    array = to_numpy(x)
    if x.dtype != torch.bfloat16:
        return array
    import openvino

    return openvino.Tensor(np.ascontiguousarray(array).view(np.uint16), list(x.shape), openvino.Type.bf16)


def _openvino_array(values: Any, output: Any) -> Any:
    """.. and gives its own bfloat16 as float16."""
    values = values.copy()
    return values.view(ml_dtypes.bfloat16) if output.element_type.get_type_name() == "bf16" else values


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class OriginalModules(VerifiedRuntime):
    """The model with another library's activations, before they were adopted, in float64: that has no rounding to allow for."""

    name = ORIGINAL

    def __init__(self, model: torch.nn.Module) -> None:
        self.version, self.provider = f"torch {torch.__version__}", "eager"
        self.implementation = "the other library's modules, float64"
        self.description = f"{self.version}, {self.implementation}"
        self.model = copy.deepcopy(model).double().eval()  # not to(dtype): some libraries overload it and fail

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        try:
            with torch.no_grad():
                found = flatten(self.model(*cast_inputs(inputs, torch.float64)))
        except (Exception, SystemExit) as error:  # the libraries' own code; one of them calls exit
            raise NotRunError(f"the original modules cannot run here: {_first_line(error)}") from None
        if not all(bool(torch.isfinite(t).all()) for t in found if t.is_floating_point()):
            raise NotRunError("the original modules give NaN or infinity, which says nothing about a file")
        return [t.numpy() for t in found]


def classes() -> dict[str, type[Any]]:
    """Name -> class, of all but PyTorch."""
    from opau_onnx.compare.node import Node

    return {c.name: c for c in (OrtFunction, OrtKernel, OrtCuda, ReferenceEvaluator, OpenVino, Node)}


def torch_record() -> dict[str, str]:
    """What PyTorch is, as plain data."""
    return {
        "version": f"torch {torch.__version__}",
        "device": "cpu",
        "provider": "eager",
        "implementation": "opau_onnx.nn, block by block",
    }
