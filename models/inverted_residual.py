"""The block of MobileNet V2 (arXiv 1801.04381), and of EfficientNet, which adds squeeze-and-excitation (arXiv 1905.11946)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opau_onnx.models.activations import create_activation
from opau_onnx.models.parts import Mean, check_sizes, convolution, initialise

STEM, HEAD = 32, 1280
"""Channels of the first and of the last convolution, in both networks."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks.

    Attributes:
        expansion: of the channels, inside a block.
        outputs: channels.
        blocks: how many.
        stride: of the first block's depthwise convolution.
        kernel: side of the depthwise kernels.
    """

    expansion: int
    outputs: int
    blocks: int
    stride: int
    kernel: int = 3


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number from 0 to 1 that all channels' means decide (arXiv 1709.01507).

    The activation between its two layers is the chosen one; the gate stays a sigmoid, whose range is what makes it a gate.

    Args:
        channels: of the input.
        hidden: channels between the two layers.
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
    """

    def __init__(self, channels: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.activation = nn.Conv2d(channels, hidden, 1), create_activation(activation)
        self.expand, self.gate = nn.Conv2d(hidden, channels, 1), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        value: Tensor = x * self.gate(self.expand(self.activation(self.reduce(self.mean(x)))))
        return value


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training, drops some samples' residuals at random and scales up the others'.

    Args:
        rate: the probability, from 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in evaluation mode x itself."""
        if not self.training or not self.rate:
            return x
        kept = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * kept.to(x.dtype) / (1.0 - self.rate)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:g}"


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, project by a 1x1 convolution that is not activated.

    With stride 1 and as many outputs as inputs, the input is added. An expansion of 1 has no expanding layer.

    Args:
        inputs: channels.
        stage: of which it is a block.
        stride: of the depthwise convolution.
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
        squeeze: share of the *inputs* between the layers of squeeze-and-excitation; 0 for none.
        drop_path: probability that a sample loses the residual in training.
    """

    def __init__(
        self, inputs: int, stage: Stage, stride: int, activation: str, squeeze: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        width = inputs * stage.expansion
        self.expand = activated(convolution(inputs, width, 1), activation) if stage.expansion != 1 else nn.Identity()
        self.filter = activated(convolution(width, width, stage.kernel, stride, groups=width), activation)
        self.squeeze = SqueezeExcitation(width, max(1, int(inputs * squeeze)), activation) if squeeze else nn.Identity()
        self.project = nn.Sequential(convolution(width, stage.outputs, 1), nn.BatchNorm2d(stage.outputs))
        self.drop_path = DropPath(drop_path) if stride == 1 and inputs == stage.outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        value: Tensor = self.project(self.squeeze(self.filter(self.expand(x))))
        return value if self.drop_path is None else x + self.drop_path(value)


class InvertedResidualNet(nn.Module):
    """The network of either paper in its form for CIFAR: convolution, stages, convolution, mean, linear layer.

    Args:
        stages: of blocks.
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
        classes: number of outputs.
        channels: of the images.
        squeeze, drop_path: as in :func:`blocks`.
        dropout: probability that the linear layer loses an input in training.

    Raises:
        LoadError: an unknown activation, or sizes that are no positive whole numbers.
    """

    def __init__(
        self, stages: Sequence[Stage], activation: str, classes: int, channels: int,
        squeeze: float = 0.0, drop_path: float = 0.0, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        self.stem = activated(convolution(channels, STEM, 3), activation)
        self.blocks = blocks(STEM, stages, activation, squeeze, drop_path)
        self.head = activated(convolution(stages[-1].outputs, HEAD, 1), activation)
        self.mean, self.dropout = Mean(), nn.Dropout(dropout) if dropout else nn.Identity()
        self.classifier = nn.Linear(HEAD, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) to logits, (N, classes)."""
        means = self.mean(self.head(self.blocks(self.stem(images))))
        logits: Tensor = self.classifier(self.dropout(means))
        return logits


def activated(layer: nn.Conv2d, activation: str) -> nn.Sequential:
    """A convolution, its batch norm, and an activation of its own."""
    parts = {"conv": layer, "norm": nn.BatchNorm2d(layer.out_channels), "activation": create_activation(activation)}
    made = nn.Sequential()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def blocks(
    inputs: int, stages: Sequence[Stage], activation: str, squeeze: float = 0.0, drop_path: float = 0.0
) -> nn.Sequential:
    """All stages; the probability of drop path grows from 0 at the first block towards ``drop_path`` after the last."""
    made: list[nn.Module] = []
    total = sum(stage.blocks for stage in stages)
    for stage in stages:
        for number in range(stage.blocks):
            stride, rate = 1 if number else stage.stride, drop_path * len(made) / total
            made.append(InvertedResidual(inputs, stage, stride, activation, squeeze, rate))
            inputs = stage.outputs
    return nn.Sequential(*made)
