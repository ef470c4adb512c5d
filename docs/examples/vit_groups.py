"""A small vision transformer whose activations have coefficients of their own for each of 8 groups of channels."""

import torch
from torch import nn

import opau_onnx
from opau_onnx.nn import OrthogonalPade


class Block(nn.Module):
    """Attention and a feed-forward part over tokens of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        # The channels of tokens are the last axis.
        activation = OrthogonalPade("hermite_e", (5, 4), groups=8, axis=-1, init="gelu")
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed_forward(self.norms[1](x))


class ViT(nn.Module):
    """Patches of 7 x 7 of a 28 x 28 image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.positions = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.blocks = nn.Sequential(Block(width))
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(tokens).mean(1))


torch.manual_seed(0)
result = opau_onnx.export_model(ViT().eval(), "vit.onnx", torch.randn(2, 1, 28, 28))
print(f"{result.path}, equal to the model: {result.equal}")
for found in opau_onnx.inspect_model("vit.onnx").activations:
    print(found.name, found.config, "run by:", found.runs)
