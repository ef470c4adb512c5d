"""MobileNet V2 for CIFAR (Sandler et al., arXiv 1801.04381)."""

from __future__ import annotations

from opau_onnx.models.inverted_residual import InvertedResidualNet, Stage

STAGES = (
    Stage(1, 16, 1, 1), Stage(6, 24, 2, 1), Stage(6, 32, 3, 2), Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1), Stage(6, 160, 3, 2), Stage(6, 320, 1, 1),
)  # fmt: skip
"""The paper's table 2, with stride 1 instead of 2 in the second stage."""


class MobileNetV2(InvertedResidualNet):
    """MobileNet V2 of width 1 in its common form for CIFAR: 32x32 images reach the mean as 4x4.

    Strides: 1 in the first convolution (ImageNet: 2); stages 1, 1 (ImageNet: 2), 2, 2, 1, 2, 1. All else is the paper's: blocks
    add their input only where its shape is the result's, the first stage has no expanding layer. Every ReLU6 is the chosen
    activation, a module of its own: 35 in all. 2,236,682 weights for 3 channels and 10 classes, 3,504,872 for 1,000, plus the
    activations' own.

    Args:
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
        classes: number of outputs.
        channels: of the images.

    Shape:
        input: (N, channels, H, W), float32; 32x32 for CIFAR, and any other size.
        output: (N, classes), logits.

    Raises:
        LoadError: an unknown activation, or sizes that are no positive whole numbers.
    """

    def __init__(self, activation: str = "relu", classes: int = 10, channels: int = 3) -> None:
        super().__init__(STAGES, activation, classes, channels)
