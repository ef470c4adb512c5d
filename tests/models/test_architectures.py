"""The networks for CIFAR: as published, with an activation of its own at every place, and the same in ONNX."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from opau_onnx import create_session, export_model, models
from opau_onnx.models.inverted_residual import DropPath, InvertedResidual, SqueezeExcitation
from opau_onnx.nn import HP1
from opau_onnx.runtime.assignment import assignments
from opau_onnx.runtime.layout_cache import verified
from opau_onnx.runtime.optimize import block_size

PUBLISHED = {
    # torchvision's ResNets have 11,689,512 and 21,797,672 weights. The pre-activation ones for small images lack 7,680 (a first
    # kernel of 3x3, not 7x7) and 1,792 (batch norms: those of inputs, none on shortcuts, one more at the end).
    "preact_resnet18": 11_689_512 - 7_680 - 1_792,
    "preact_resnet34": 21_797_672 - 7_680 - 1_792,
    "mobilenet_v2": 3_504_872,  # torchvision
    "efficientnet_b0": 5_288_548,  # torchvision
}
"""Weights with 1,000 classes."""
SITES = {"preact_resnet18": 17, "preact_resnet34": 33, "mobilenet_v2": 35, "efficientnet_b0": 49}
REORDERS = {"preact_resnet18": 1, "mobilenet_v2": 1}
"""Changes of layout that onnxruntime needs when activations run inside its own: the one before the mean over all pixels."""
WIDTH = {"preact_resnet18": 512, "preact_resnet34": 512, "mobilenet_v2": 1280, "efficientnet_b0": 1280}
SMALL = [name for name in SITES if name != "preact_resnet34"]
"""The largest differs from its smaller sister in the number of blocks only."""


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_all_are_tested() -> None:
    assert {"lenet", *SITES} == set(models.ARCHITECTURES)


@pytest.mark.parametrize("name", SITES)
def test_published_numbers_of_weights(name: str) -> None:
    thousand = models.create(name, classes=1000)
    assert weights(thousand) == PUBLISHED[name]
    assert weights(thousand) - weights(models.create(name, classes=10)) == 990 * (WIDTH[name] + 1)


def test_known_numbers_of_weights_for_cifar() -> None:
    assert weights(models.create("preact_resnet18")) == 11_172_170
    assert weights(models.create("lenet", channels=3, size=32)) == 62_006  # of PyTorch's tutorial
    assert weights(models.create("mobilenet_v2", classes=100)) == 2_351_972


@pytest.mark.parametrize("name", SITES)
def test_every_place_has_an_activation_of_its_own(name: str) -> None:
    model, plain = models.create(name, activation="hp1"), models.create(name, activation="relu")
    made = [m for m in model.modules() if isinstance(m, HP1)]
    assert len(made) == len({id(m.numerator) for m in made}) == SITES[name]
    assert weights(model) - weights(plain) == 10 * SITES[name]
    assert len([m for m in plain.modules() if isinstance(m, nn.ReLU)]) == SITES[name]
    others = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)
    assert not [m for m in model.modules() if isinstance(m, others)]


def test_the_gates_stay() -> None:
    model = models.create("efficientnet_b0", activation="hp1")
    blocks = [m for m in model.modules() if isinstance(m, SqueezeExcitation)]
    assert len(blocks) == 16
    assert all(isinstance(b.gate, nn.Sigmoid) and isinstance(b.activation, HP1) for b in blocks)


class Sizes:
    """Where the last activation is, and how large its result."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[tuple[int, ...]] = []
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self.note)

    def note(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.seen.append(tuple(output.shape[1:]))


@pytest.mark.parametrize(("name", "sides", "last"), [
    ("preact_resnet18", [32, 16, 8, 4], (512, 4, 4)),
    ("preact_resnet34", [32, 16, 8, 4], (512, 4, 4)),
    ("mobilenet_v2", [32, 16, 8, 4], (1280, 4, 4)),
    ("efficientnet_b0", [32, 16, 8, 4, 2], (1280, 2, 2)),
])  # fmt: skip
@torch.no_grad()
def test_strides_of_the_form_for_cifar(name: str, sides: list[int], last: tuple[int, ...]) -> None:
    model = models.create(name).eval()
    sizes = Sizes(model)
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    found = [side for side, _ in itertools.groupby(shape[-1] for shape in sizes.seen if shape[-1] > 1)]
    assert (found, sizes.seen[-1]) == (sides, last)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_everything(name: str, channels: int) -> None:
    torch.manual_seed(0)
    model = models.create(name, activation="hp1", classes=7, channels=channels)
    logits = model(torch.randn(4, channels, 16, 16))
    assert logits.shape == (4, 7)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SITES)
@torch.no_grad()
def test_initialisation_keeps_the_signal(name: str) -> None:
    """Before any training, with the statistics of a batch: nothing vanishes or explodes on the way."""
    torch.manual_seed(0)
    model = models.create(name, activation="relu")
    spread = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda m, i, y: spread.append(float(y.std())))
    model(torch.randn(8, 3, 32, 32))
    assert min(spread) > 0.02
    assert max(spread) < 20


def test_depthwise_kernels_are_as_large_as_others() -> None:
    """By the fan-out of a group: 3x3 kernels of one channel have a spread of sqrt(2 / 9)."""
    torch.manual_seed(0)
    filters = [m for m in models.create("mobilenet_v2").modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(filters) == 17
    assert [float(m.weight.detach().std()) for m in filters] == pytest.approx([(2 / 9) ** 0.5] * 17, rel=0.2)


class TestDropPath:
    def test_is_nothing_in_evaluation(self) -> None:
        x = torch.randn(4, 3, 2, 2)
        assert DropPath(0.9).eval()(x) is x
        assert DropPath(0.0)(x) is x

    def test_drops_whole_samples_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        y = DropPath(0.25)(torch.ones(20000, 2, 2, 1)).reshape(20000, 4)
        assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert torch.equal(y, y[:, :1].expand(-1, 4))
        assert float(y.mean()) == pytest.approx(1.0, abs=0.02)

    def test_grows_with_the_depth(self) -> None:
        model = models.create("efficientnet_b0")
        blocks = [m for m in model.modules() if isinstance(m, InvertedResidual)]
        rates = [0.0 if b.drop_path is None else b.drop_path.rate for b in blocks]
        own = [i for i, b in enumerate(blocks) if b.drop_path is not None]
        assert own == [2, 4, 6, 7, 9, 10, 12, 13, 14]
        assert [rates[i] for i in own] == pytest.approx([0.2 * i / 16 for i in own])

    def test_mobilenet_has_none(self) -> None:
        found = [m.rate for m in models.create("mobilenet_v2").modules() if isinstance(m, DropPath)]
        assert found == [0.0] * 10


@pytest.mark.parametrize(("name", "activation"), list(zip(SMALL, ["hp1", "hp2", "hp1"], strict=True)))
@torch.no_grad()
def test_exported_kernel_and_function_agree_with_pytorch(
    name: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small images; scripts/models_table.py does the whole of it."""
    monkeypatch.setenv("OPAU_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = models.create(name, activation=activation)
    model(torch.randn(16, 3, 16, 16))  # statistics of the batch norms
    model.eval()
    path = export_model(model, tmp_path / "net.onnx", torch.randn(2, 3, 16, 16), validate=False).path
    for library, implementation in ((False, "function"), ("auto", "kernel")):
        session = create_session(path, "cpu", library=library)
        found = assignments(session)
        if implementation == "kernel" and found[0].implementation != "kernel":
            pytest.skip("the compiled library is not built")
        assert {a.implementation for a in found} == {implementation}
        for batch in (1, 32):
            x = torch.randn(batch, 3, 16, 16)
            (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
            want = model(x).numpy()
            assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    if block_size() and name in REORDERS:
        (kept,) = (tmp_path / "cache" / "layout").iterdir()
        content = verified(kept.name, kept.read_bytes())
        assert content is not None
        assert sum("Reorder" in node.op_type for node in onnx.load_model_from_string(content).graph.node) == REORDERS[name]
