"""The architectures, and the trained models that are shipped."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import opau_onnx
from opau_onnx import models
from opau_onnx.errors import LoadError
from opau_onnx.io import checkpoint, datasets
from opau_onnx.models.activations import ACTIVATIONS, create_activation
from opau_onnx.nn import OrthogonalPade

MODELS = Path(__file__).resolve().parent.parent / "models"
SHIPPED = ("hp1", "hp2", "relu")
CARDS = [MODELS / f"lenet_{name}_fashion_mnist.json" for name in SHIPPED]


@pytest.mark.parametrize("form", [{}, {"channels": 3, "size": 32}])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lenet_shapes(name: str, form: dict[str, int]) -> None:
    model = models.create("lenet", activation=name, **form)
    images = torch.randn(3, form.get("channels", 1), *[form.get("size", 28)] * 2)
    logits = model(images)
    assert logits.shape == (3, 10)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("name", "own"), [("relu", 0), ("prelu", 4), ("hp1", 40), ("hp2", 40), ("pau_a", 40)])
def test_each_layer_has_an_activation_of_its_own(name: str, own: int) -> None:
    model = models.create("lenet", activation=name)
    assert sum(p.numel() for p in model.parameters()) == 61706 + own
    layers = [n for n, m in model.named_modules() if type(m) is type(create_activation(name))]
    assert layers == ["conv1_activation", "conv2_activation", "fc1_activation", "fc2_activation"]


@pytest.mark.parametrize(("name", "basis", "form"), [
    ("hp1", "hermite_e", "abs_terms"), ("hp2", "hermite", "abs_terms"), ("opau_legendre", "legendre", "abs_terms"),
    ("pau_a", "power", "abs_terms"), ("pau_b", "power", "abs_sum"),
])  # fmt: skip
def test_names_mean_what_they_say(name: str, basis: str, form: str) -> None:
    module = create_activation(name)
    assert isinstance(module, OrthogonalPade)
    assert (module.config.basis, module.config.form, module.config.degrees) == (basis, form, (5, 4))


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("alexnet", {}, "unknown architecture 'alexnet'; expected one of lenet"),
        ("lenet", {"activation": "hp3"}, "unknown activation 'hp3'; expected one of relu, .*hp1"),
        ("efficientnet_b0", {"activation": "swoosh"}, "unknown activation 'swoosh'; expected one of relu, .*silu"),
        ("lenet", {"size": 30}, "size is 30; LeNet-5 takes images of 28x28 or 32x32 pixels"),
        ("lenet", {"channels": 0}, "channels is 0; expected a whole number of at least 1"),
        ("preact_resnet18", {"classes": 10.0}, "classes is 10.0; expected a whole number of at least 1"),
        ("mobilenet_v2", {"classes": True}, "classes is True; expected"),
        ("efficientnet_b0", {"channels": -3}, "channels is -3; expected"),
        ("lenet", {"depth": 3}, "unexpected keyword argument 'depth'; it is made with .*activation"),
    ],
)
def test_unknown_names(architecture: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        models.create(architecture, **arguments)


def test_importing_the_registry_needs_no_torch() -> None:
    subprocess.run([sys.executable, "-c", "import sys, opau_onnx.models; assert 'torch' not in sys.modules"], check=True)


def test_what_is_shipped() -> None:
    assert sorted(MODELS.glob("*.json")) == CARDS
    assert sorted(MODELS.glob("*.pt")) == [card.with_suffix(".pt") for card in CARDS]


def load(card: Path) -> tuple[dict, torch.nn.Module, torch.Tensor]:
    path = card.with_suffix(".pt")
    content = torch.load(path, weights_only=True)
    return content, *checkpoint.build(content, path)


def accuracy(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    with torch.no_grad():
        parts = [model(torch.from_numpy(datasets.preprocess(p))) for p in np.array_split(images, len(images) // 1000)]
    return float((torch.cat(parts).argmax(1).numpy() == labels).mean())


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
class TestCard:
    def test_agrees_with_its_checkpoint(self, path: Path) -> None:
        card = json.loads(path.read_text())
        file = MODELS / card["checkpoint"]["file"]
        assert file == path.with_suffix(".pt")
        assert card["checkpoint"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert card["checkpoint"]["bytes"] == file.stat().st_size < 2_000_000
        content, model, example = load(path)
        assert (card["architecture"], card["arguments"]) == (content["architecture"], content["arguments"])
        assert card["preprocessing"] == datasets.PREPROCESSING
        assert card["parameters"] == sum(p.numel() for p in model.parameters())
        assert all(card[key] == value for key, value in content["training"].items())
        assert all(p.isfinite().all() for p in model.parameters())
        assert (example.shape, example.dtype) == ((2, 1, 28, 28), torch.float32)

    def test_tells_what_the_model_reaches_on_the_sample(self, path: Path) -> None:
        card = json.loads(path.read_text())
        reached = accuracy(load(path)[1], *datasets.load_sample())
        print(f"{card['name']}: sample {reached:.1%}, card {card['test']['accuracy']:.2%}")
        assert abs(reached - card["test"]["accuracy"]) < 0.05

    def test_tells_what_the_model_reaches_on_the_test_set(self, path: Path) -> None:
        folder = datasets.find_fashion_mnist()
        if folder is None:
            pytest.skip("Debian's dataset-fashion-mnist is not installed")
        card = json.loads(path.read_text())
        reached = accuracy(load(path)[1], *datasets.load_fashion_mnist(folder, "test"))
        # Another machine rounds otherwise, which can turn the few images on the border.
        assert abs(reached - card["test"]["accuracy"]) <= 0.001


def test_one_recipe_for_all() -> None:
    cards = [json.loads(path.read_text()) for path in CARDS]
    assert len({json.dumps([c["recipe"], c["data"], c["preprocessing"]]) for c in cards}) == 1
    assert cards[0]["data"]["training_images"] == 60000
    assert cards[0]["data"]["test_images"] == 10000


@pytest.mark.parametrize("name", ["lenet_hp1", "lenet_hp2", "lenet_relu", "lenet_hp1_fashion_mnist"])
def test_shipped_checkpoints_have_a_path(name: str) -> None:
    path = models.path(name)
    assert path.stem == (name if name.endswith("mnist") else f"{name}_fashion_mnist")
    assert opau_onnx.load(path).kind == "checkpoint"
    assert path.with_suffix(".json").is_file()


@pytest.mark.parametrize("name", ["", "lenet", "../lenet_hp1", "lenet_hp1_fashion_mnist.pt"])
def test_what_is_not_shipped_has_none(name: str) -> None:
    with pytest.raises(LoadError, match="expected one of lenet_hp1_fashion_mnist"):
        models.path(name)
