"""Results of the method's paper (Biswas, Banerjee, Pandey, arXiv 2106.09693): gains over ReLU in points of top-1 accuracy."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = 'Biswas, Banerjee, Pandey, "Orthogonal-Padé Activation Functions", arXiv 2106.09693'
ABOUT = (
    "Gains over ReLU in percentage points of top-1 accuracy, from the abstract. The training recipe and the number of seeds "
    "were not available to us; which of the two activations is HP-1 is our interpretation."
)


@dataclass(frozen=True)
class Row:
    """A line of the paper: data set and architecture as scripts/compare.py calls them, the model's name, and the gains."""

    dataset: str
    architecture: str
    model: str
    hp1: float
    hp2: float


ROWS = (
    Row("cifar-100", "preact_resnet34", "PreActResNet-34", 5.06, 4.63),
    Row("cifar-100", "mobilenet_v2", "MobileNet V2", 3.02, 2.75),
    Row("cifar-10", "preact_resnet34", "PreActResNet-34", 2.02, 1.78),
    Row("cifar-10", "lenet", "LeNet", 2.24, 2.06),
    Row("cifar-10", "efficientnet_b0", "EfficientNet B0", 2.15, 2.03),
)


def command(row: Row) -> str:
    """Command that repeats a line with this repository on a GPU."""
    name = f"{row.architecture}_{row.dataset.replace('-', '')}"
    return (
        f".venv/bin/python scripts/compare.py --model {row.architecture} --dataset {row.dataset} --data FOLDER --epochs 200 "
        "--activation relu --activation hp1 --activation hp2 --seeds 3 --jobs 1 --device cuda --precision bfloat16 "
        f"--output out/{name}"
    )
