"""onnxruntime in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime
import torch

from opau_onnx.compare.arrays import array, ort_value
from opau_onnx.compare.runtime import Model, NotRunError, Runtime, VerifiedRuntime
from opau_onnx.errors import DeviceError, LibraryError, ValidationError
from opau_onnx.graph import coverage as models
from opau_onnx.graph.coverage import read
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.session import create_session, quiet_options


class SessionRuntime(Runtime):
    """An onnxruntime session.

    Attributes:
        session: the session.
        names: of the inputs, in order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, description: str) -> None:
        self.session, self.description = session, description
        self.names = [v.name for v in session.get_inputs()]

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        feed = {name: ort_value(x) for name, x in zip(self.names, inputs, strict=True)}
        try:
            return [array(v) for v in self.session.run_with_ort_values(None, feed)]
        except Exception as error:
            raise ValidationError(f"onnxruntime cannot run the model: {error}") from None


class OnnxRuntime(SessionRuntime):
    """onnxruntime on the CPU, without any library of ours: the activations run as function bodies.

    Raises:
        ValidationError: onnxruntime refuses the file.
    """

    def __init__(self, model: Path | bytes, *, optimize: bool = True) -> None:
        options = quiet_options()
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise ValidationError(f"onnxruntime cannot load the model: {error}") from None
        providers = ", ".join(session.get_providers())
        bodies = "function bodies (no library registered)" if read(model).nodes else "no op of ours"
        super().__init__(session, f"onnxruntime {onnxruntime.__version__}, {providers}, {bodies}")


class OrtSession(SessionRuntime, VerifiedRuntime):
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
        options = quiet_options()
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
