"""A model file in one runtime: what every runtime offers, and why one did not run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from opau_onnx.errors import ValidationError


class Runtime:
    """An ONNX file that can be run.

    Attributes:
        description: runtime, version, provider and the implementation of the activations, for reports.
    """

    description: str

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """The outputs for the inputs, in the graph's order."""
        raise NotImplementedError


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
        """Runtime, device, provider and implementation, as plain data."""
        return {k: str(getattr(self, k)) for k in ("version", "device", "provider", "implementation")}

    def close(self) -> None:
        """Give back what it holds."""


def first_line(error: BaseException) -> str:
    """The last line of an error's text, which is where runtimes say what is wrong; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
