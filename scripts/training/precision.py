"""Mixed precision: 16-bit arithmetic where torch.autocast finds it safe, float32 weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from opau_onnx.errors import DeviceError
from training import TrainingError

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name -> dtype of autocast. Learned activations compute in float32 whatever comes in, and give back its dtype."""
DEVICES = ("cpu", "cuda")


class Precision:
    """How the arithmetic of a run is done.

    float16 has a range that gradients leave, so their loss is scaled; a step whose gradients are not finite is left out and
    the scale halved. bfloat16 has float32's range and needs none of that. On the CPU float16 works, and is slow.

    Args:
        name: a key of :data:`PRECISIONS`. device: one of :data:`DEVICES`.

    Raises:
        TrainingError: unknown names.
        DeviceError: CUDA is asked for and PyTorch sees none, or one without bfloat16 where that is asked for.
    """

    def __init__(self, name: str, device: str) -> None:
        if name not in PRECISIONS or device not in DEVICES:
            names, devices = ", ".join(PRECISIONS), ", ".join(DEVICES)
            raise TrainingError(f"precision {name!r} on device {device!r}; expected one of {names} on one of {devices}")
        if device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(f"device cuda was asked for, and PyTorch {torch.__version__} sees none; pass --device cpu")
        if device == "cuda" and name == "bfloat16" and not torch.cuda.is_bf16_supported():
            raise DeviceError(f"{torch.cuda.get_device_name()} has no bfloat16; pass --precision float16")
        self.name, self.device, self._dtype = name, device, PRECISIONS[name]
        self.scaler = torch.amp.GradScaler(device, enabled=self._dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[object]:
        """For the forward pass and the loss."""
        return nullcontext() if self._dtype is None else torch.autocast(self.device, self._dtype)
