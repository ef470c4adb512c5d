"""Draw the learned activations of a checkpoint: learned curve, the fit it started from, and the fit's target."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from opau_onnx.nn import OrthogonalPade
from opau_onnx.reading import load

REACH = 6.0


def draw(checkpoint: Path, output: Path) -> int:
    """Write one PNG; returns the number of activations drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    modules = [(n, m) for n, m in load(checkpoint).model.named_modules() if isinstance(m, OrthogonalPade)]
    if not modules:
        sys.exit(f"{checkpoint} holds no learned activation")
    columns = min(4, len(modules))
    rows = -(-len(modules) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows + 0.5), squeeze=False, sharex=True, sharey=True
    )
    x = torch.linspace(-REACH, REACH, 601)
    leaky = torch.nn.functional.leaky_relu(x, 0.01)
    for axis, (name, module) in zip(axes.flat, modules, strict=False):
        start = type(module)() if type(module) is not OrthogonalPade else None
        with torch.no_grad():
            axis.plot(x, leaky, color="0.7", linewidth=1, label="Leaky ReLU, the fit's target")
            if start is not None:
                axis.plot(x, start(x), "--", color="tab:orange", linewidth=1.2, label="start (fit)")
            axis.plot(x, module(x), color="tab:blue", linewidth=2, label="learned")
        axis.set_title(f"{name}\n{module.config}", fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(modules) :]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(f"Learned activations of {checkpoint.name}", fontsize=10)
    figure.tight_layout()
    figure.savefig(output, dpi=130)
    return len(modules)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot_activations.py CHECKPOINT.pt OUTPUT.png")
    count = draw(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{count} learned activations drawn: {sys.argv[2]}")
