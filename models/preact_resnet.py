"""PreActResNet-18 and -34 for CIFAR (He et al., "Identity Mappings in Deep Residual Networks", arXiv 1603.05027)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from opau_onnx.models.activations import create_activation
from opau_onnx.models.parts import Mean, check_sizes, convolution, initialise

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages."""


class PreActBlock(nn.Module):
    """x + convolutions of x, each normalized and activated *before* it is convolved.

    Where size or width change, the shortcut is a 1x1 convolution of the first activation's result, as in the authors' code.

    Args:
        inputs, outputs: channels.
        stride: of the first convolution.
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str) -> None:
        super().__init__()
        self.norm1, self.activation1 = nn.BatchNorm2d(inputs), create_activation(activation)
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.norm2, self.activation2 = nn.BatchNorm2d(outputs), create_activation(activation)
        self.conv2 = convolution(outputs, outputs, 3)
        self.shortcut = convolution(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        before = self.activation1(self.norm1(x))
        residual = self.conv2(self.activation2(self.norm2(self.conv1(before))))
        value: Tensor = residual + (x if self.shortcut is None else self.shortcut(before))
        return value


class PreActResNet(nn.Module):
    """A 3x3 convolution with stride 1 and no pooling, four stages of blocks with strides 1, 2, 2, 2, norm, activation, mean.

    The norm and activation after the last block are the authors'; code that leaves them out has 1,024 weights less. For three
    channels and 10 classes, blocks (2, 2, 2, 2) make 11,172,170 weights, (3, 4, 6, 3) 21,280,330, plus the activations' own.

    Args:
        blocks: how many in each stage.
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`; each of the two in a block, and the last one, is
            a module of its own.
        classes: number of outputs.
        channels: of the images.

    Shape:
        input: (N, channels, H, W), float32; 32x32 for CIFAR, and any other size.
        output: (N, classes), logits.

    Raises:
        LoadError: an unknown activation, or sizes that are no positive whole numbers.
    """

    def __init__(self, blocks: Sequence[int], activation: str = "relu", classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        self.stem = convolution(channels, WIDTHS[0], 3)
        made, inputs = [], WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            for number in range(count):
                made.append(PreActBlock(inputs, width, 2 if stage and not number else 1, activation))
                inputs = width
        self.blocks = nn.Sequential(*made)
        self.norm, self.activation = nn.BatchNorm2d(inputs), create_activation(activation)
        self.mean = Mean()
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        x = self.activation(self.norm(self.blocks(self.stem(images))))
        logits: Tensor = self.classifier(self.mean(x))
        return logits


def preact_resnet18(activation: str = "relu", classes: int = 10, channels: int = 3) -> PreActResNet:
    """PreActResNet-18: two blocks in each stage; arguments as :class:`PreActResNet`."""
    return PreActResNet((2, 2, 2, 2), activation, classes, channels)


def preact_resnet34(activation: str = "relu", classes: int = 10, channels: int = 3) -> PreActResNet:
    """PreActResNet-34: 3, 4, 6 and 3 blocks; arguments as :class:`PreActResNet`."""
    return PreActResNet((3, 4, 6, 3), activation, classes, channels)
