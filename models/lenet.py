"""LeNet-5 for images of 28x28 pixels (MNIST and its kin) or 32x32 (CIFAR)."""

from __future__ import annotations

from torch import Tensor, nn

from opau_onnx.errors import LoadError
from opau_onnx.models.activations import create_activation
from opau_onnx.models.parts import check_sizes


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with max-pooling and a chosen activation.

    61,706 weights for one channel and 10 classes, 62,006 for three (the form for CIFAR), plus the activations' own.

    Each of the four activations is a module of its own: a learned one has its own coefficients in each layer.

    Args:
        activation: a key of :data:`opau_onnx.models.activations.ACTIVATIONS`.
        classes: number of outputs.
        channels: of the images.
        size: of the images, height and width: 28 or 32.

    Shape:
        input: (N, channels, size, size), float32, preprocessed as the checkpoint says: see
            :func:`opau_onnx.io.datasets.preprocess`.
        output: (N, classes), logits.

    Raises:
        LoadError: an unknown activation, another size, or numbers that are not whole and positive.
    """

    def __init__(self, activation: str = "relu", classes: int = 10, channels: int = 1, size: int = 28) -> None:
        super().__init__()
        check_sizes(classes=classes, channels=channels)
        if size not in (28, 32):
            raise LoadError(f"size is {size!r}; LeNet-5 takes images of 28x28 or 32x32 pixels, so expected 28 or 32")
        # Padding makes the 28x28 images the 32x32 ones of the original.
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=(32 - size) // 2)
        self.conv1_activation = create_activation(activation)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv2_activation = create_activation(activation)
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc1_activation = create_activation(activation)
        self.fc2 = nn.Linear(120, 84)
        self.fc2_activation = create_activation(activation)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of each class."""
        x: Tensor = self.pool1(self.conv1_activation(self.conv1(images)))
        x = self.pool2(self.conv2_activation(self.conv2(x)))
        x = self.fc1_activation(self.fc1(self.flatten(x)))
        x = self.fc2_activation(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits
