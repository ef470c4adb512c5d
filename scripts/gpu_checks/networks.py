"""Training steps of whole networks, HP-1 next to ReLU and GELU: eager and compiled, float32 and bfloat16 autocast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpu_checks.device import Cpu, Gpu
from opau_onnx import models
from opau_onnx.nn import OrthogonalPade

BUDGET_S = 150.0
"""No further row is begun after so many seconds: compilation takes most of them."""
ACTIVATIONS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "nn.ReLU": ("relu", nn.ReLU),
    "nn.GELU": ("gelu", nn.GELU),
    "HP-1": ("hp1", lambda: OrthogonalPade(groups=8, axis=-1)),
}
"""By its name in the table: the architectures' name for it, and what the ViT has, whose coefficients are by 8 groups."""


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, tokens, 3, width // 64, 64).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        y: Tensor = x + self.mlp(self.norms[1](x))
        return y


def vit(activation: Callable[[], nn.Module]) -> nn.Module:
    """A ViT-Tiny for images of 224: patches of 16, 12 blocks of width 192."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 192, 16, stride=16)
            self.blocks = nn.Sequential(*(Block(192, activation()) for _ in range(12)))
            self.head = nn.Linear(192, 10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
            return y

    return ViT()


def run(target: Gpu | Cpu, *, few: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    rows, skipped = [], []
    kinds = [(mode, kind) for mode in ("eager", "compiled") for kind in (torch.float32, torch.bfloat16)]
    for mode, kind in kinds[:1] if few else kinds:
        for network, batch in (("PreActResNet-18", 256), ("ViT-Tiny", 128)):
            label = f"{network}, {mode}, {str(kind).removeprefix('torch.')}"
            if time.perf_counter() - begin > BUDGET_S:
                skipped.append(label)
                continue
            rows.append(_row(target, network, mode, kind, 2 if few else batch, label))
    return {"passed": all("failed" not in row for row in rows), "rows": rows, "not_run": skipped}


def _row(target: Gpu | Cpu, network: str, mode: str, kind: torch.dtype, batch: int, label: str) -> dict[str, Any]:
    row: dict[str, Any] = {"what": label, "batch": batch}
    try:
        steps = {name: _step(target, network, name, mode, kind, batch) for name in ACTIVATIONS}
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(1 if target.dry else 3):  # in turns, so that the clock's changes reach all alike
            for name, step in steps.items():
                found[name].append(_seconds(target, step, 1 if target.dry else 10))
    except Exception as error:
        return {**row, "failed": f"{type(error).__name__}: {error}"[:300]}
    return row | {name: round(batch / min(times), 1) for name, times in found.items()}


def _step(target: Gpu | Cpu, network: str, name: str, mode: str, kind: torch.dtype, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    architecture, make = ACTIVATIONS[name]
    small = network.startswith("PreAct")
    net = (models.create("preact_resnet18", activation=architecture) if small else vit(make)).to(target.name)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)
    x = torch.randn(batch, 3, *(2 * (32 if small else 224,)), device=target.name)
    labels = torch.randint(10, (batch,), device=target.name)
    forward = torch.compile(net) if mode == "compiled" else net

    def step() -> None:
        with torch.autocast(target.name, torch.bfloat16, enabled=kind == torch.bfloat16):
            loss = nn.functional.cross_entropy(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for _ in range(1 if target.dry else 4):
        step()
    return step


def _seconds(target: Gpu | Cpu, step: Callable[[], None], times: int) -> float:
    target.synchronize()
    begin = time.perf_counter()
    for _ in range(times):
        step()
    target.synchronize()
    return (time.perf_counter() - begin) / times
