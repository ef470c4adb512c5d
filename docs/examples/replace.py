"""Swap the ReLUs of an existing network for learned activations that start as what was there."""

import torch
from torch import nn

from opau_onnx.nn import HP2, replace_activations

net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 2)).eval()
x = torch.randn(256, 8)
with torch.no_grad():
    before = net(x)
    replace_activations(net, HP2, imitate=True)
    after = net(x)
print(net)
print(f"largest change of an output: {(after - before).abs().max():.3f}, of outputs up to {before.abs().max():.2f}")
