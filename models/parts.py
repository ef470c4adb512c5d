"""Common parts of the networks for CIFAR."""

from __future__ import annotations

import math

from torch import Tensor, nn

from opau_onnx.errors import LoadError


def check_sizes(**sizes: int) -> None:
    """Raise LoadError for a number of channels, classes, ... that is not a whole number of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LoadError(f"{name} is {value!r}; expected a whole number of at least 1")


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without a bias, padded so that stride 1 keeps the size; kernels are odd."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Mean(nn.Module):
    """The mean over all pixels: (N, C, H, W) to (N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool and drop the two axes."""
        means: Tensor = self.pool(x).flatten(1)
        return means


def initialise(model: nn.Module) -> None:
    """He's initialisation (arXiv 1502.01852) of all convolutions, by the fan-out of one group; linear layers normal, 0.01.

    PyTorch's own ``kaiming_normal_`` counts the outputs of all groups, which makes depthwise kernels too small.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel() // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
