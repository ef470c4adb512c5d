"""From stored bytes to what a network takes, batch by batch, on any device: a frame, augmentation, preprocessing, channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from opau_onnx.io import datasets
from training import TrainingError
from training.datasets import Kind


@dataclass(frozen=True)
class Shape:
    """Channels, and height and width, of the images that a network takes."""

    channels: int
    size: int


def shape_for(architecture: str, kind: Kind) -> Shape:
    """LeNet takes every data set's images as they are; the networks for CIFAR take 3x32x32."""
    return Shape(kind.channels, kind.size) if architecture == "lenet" else Shape(3, 32)


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images.

    Attributes:
        mirror: each image is flipped horizontally with probability 1/2.
        crop: pixels of a black frame, out of which a piece of the image's own size is cut; 0 for none.
    """

    mirror: bool
    crop: int

    def __str__(self) -> str:
        parts = ["horizontal flip of each image with probability 1/2"] if self.mirror else []
        parts += [f"each image cut at random out of a black frame of {self.crop} pixels around it"] if self.crop else []
        return ", ".join(parts) or "none"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented images, (N, channels, H, W) of any dtype. ``generator`` is the CPU's, so that all devices draw the same."""
        if self.mirror:
            flip = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(flip.to(images.device), images.flip(-1), images)
        if self.crop:
            corners = torch.randint(0, 2 * self.crop + 1, (2, len(images)), generator=generator)
            images = _cropped(pad(images, [self.crop] * 4), corners.to(images.device), images.shape[-2:])
        return images


def _cropped(framed: Tensor, corners: Tensor, size: torch.Size) -> Tensor:
    """Cut a piece out of each image at its own corner, (2, N): row and column."""
    rows, columns = (
        start[:, None] + torch.arange(length, device=framed.device) for start, length in zip(corners, size, strict=True)
    )
    batch = torch.arange(len(framed), device=framed.device)[:, None, None]
    # An index before and after a slice puts the indexed axes first.
    return framed[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Pixels:
    """Brings stored images to the shape and numbers that a network takes.

    Args:
        kind: the data set.
        shape: that of the network. Smaller images get a black frame; grey ones three equal channels.
        device: where the images are.

    Raises:
        TrainingError: images that are larger, or coloured images for a network that takes grey ones.
    """

    def __init__(self, kind: Kind, shape: Shape, device: str = "cpu") -> None:
        frame, odd = divmod(shape.size - kind.size, 2)
        if frame < 0 or odd or kind.channels not in (1, shape.channels):
            raise TrainingError(
                f"{kind.title} has {kind.channels} channels of {kind.size}x{kind.size} pixels, the network takes "
                f"{shape.channels} of {shape.size}x{shape.size}"
            )
        self.kind, self.shape, self.frame = kind, shape, frame
        rows = [torch.from_numpy(datasets.levels(m, s)) for m, s in zip(kind.mean, kind.std, strict=True)]
        self._levels = torch.cat(rows).to(device)
        self._rows = 256 * torch.arange(kind.channels, device=device)[:, None, None]

    def framed(self, images: Tensor) -> Tensor:
        """In a black frame of the network's size, still bytes."""
        return pad(images, [self.frame] * 4) if self.frame else images

    def preprocessed(self, images: Tensor) -> Tensor:
        """Framed bytes (N, channels, H, W) to float32 of the network's shape, as :func:`opau_onnx.io.datasets.preprocess`."""
        values = self._levels[images.long() + self._rows]
        return values.expand(-1, self.shape.channels, -1, -1).contiguous()

    def __call__(self, images: Tensor) -> Tensor:
        """Both, for evaluation."""
        return self.preprocessed(self.framed(images))

    def __str__(self) -> str:
        mean, std = (v[0] if len(v) == 1 else v for v in (self.kind.mean, self.kind.std))
        more = f"; the image in a black frame of {self.frame} pixels" if self.frame else ""
        more += f"; {self.shape.channels} equal channels" if self.shape.channels != self.kind.channels else ""
        return datasets.describe_preprocessing(mean, std, (self.shape.channels, self.shape.size, self.shape.size), more)
