"""EfficientNet B0 for CIFAR (Tan and Le, arXiv 1905.11946)."""

from __future__ import annotations

from opau_onnx.models.inverted_residual import InvertedResidualNet, Stage

STAGES = (
    Stage(1, 16, 1, 1, 3), Stage(6, 24, 2, 2, 3), Stage(6, 40, 2, 2, 5), Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5), Stage(6, 192, 4, 2, 5), Stage(6, 320, 1, 1, 3),
)  # fmt: skip
"""The paper's table 1."""
SQUEEZE = 0.25
DROP = 0.2
"""Of the connections between blocks at the last one, and before the classifier."""


class EfficientNetB0(InvertedResidualNet):
    """EfficientNet B0 in its common form for CIFAR: 32x32 images reach the mean as 2x2.

    Strides: 1 in the first convolution (ImageNet: 2); stages 1, 2, 2, 2, 1, 2, 1 as in the paper. All else is the paper's:
    squeeze-and-excitation of a quarter of each block's inputs, drop path that grows to 0.2, dropout of 0.2. Every Swish is the
    chosen activation, a module of its own, those in squeeze-and-excitation too (its sigmoid stays): 49 in all.

    4,020,358 weights for 3 channels and 10 classes, 5,288,548 for 1,000, plus the activations' own.

    Args:
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`; the paper's is "silu".
        classes: number of outputs.
        channels: of the images.

    Shape:
        input: (N, channels, H, W), float32; 32x32 for CIFAR, and any other size.
        output: (N, classes), logits.

    Raises:
        LoadError: an unknown activation, or sizes that are no positive whole numbers.
    """

    def __init__(self, activation: str = "relu", classes: int = 10, channels: int = 3) -> None:
        super().__init__(STAGES, activation, classes, channels, SQUEEZE, DROP, DROP)
