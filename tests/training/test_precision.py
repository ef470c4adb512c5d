"""Mixed precision: learned activations under autocast, and the scaler's left-out steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from training import TrainingError
from training.datasets import DATASETS, Data, read_data
from training.loop import Training, train_epoch
from training.pixels import Pixels, Shape
from training.precision import Precision
from training.recipes import make_recipe
from training.run import Options, make_job, train

from opau_onnx import models
from opau_onnx.errors import DeviceError
from opau_onnx.models.activations import create_activation

SIXTEEN = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def source(idx_folder: Path) -> Data:
    return read_data("fashion-mnist", idx_folder)


def begin(precision: str, activation: str = "hp1", source: Data | None = None, **options: object) -> Training:
    torch.manual_seed(0)
    model = models.create("lenet", activation=activation)
    recipe = make_recipe("onecycle", mirrored=True, precision=precision, epochs=2, batch_size=32, **options)
    return Training.begin("lenet", model, recipe, Pixels(DATASETS["fashion-mnist"], Shape(1, 28)), 2)


@pytest.mark.parametrize("precision", SIXTEEN)
@pytest.mark.parametrize("activation", ["hp1", "hp2", "pau_b", "opau_laguerre"])
def test_activations_take_and_give_sixteen_bits_and_keep_float32_coefficients(
    precision: str, activation: str, source: Data
) -> None:
    run = begin(precision, activation)
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    module = run.model.get_submodule("conv1_activation")
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    reference = begin("float32", activation)
    for each in (run, reference):
        images = each.pixels(source.train.images[:32])
        with each.precision.autocast():
            loss = torch.nn.functional.cross_entropy(each.model(images), source.train.labels[:32])
        assert loss.dtype == torch.float32
        loss.backward()
    assert seen == [(SIXTEEN[precision],) * 2]
    for mine, theirs in zip(module.parameters(), reference.model.get_submodule("conv1_activation").parameters(), strict=True):
        assert mine.dtype == mine.grad.dtype == torch.float32
        error = float((mine.grad - theirs.grad).abs().max() / theirs.grad.abs().max())
        print(f"largest difference of a gradient, of the largest gradient: {error:.2g}")
        assert 0.0 < error < {"bfloat16": 0.4, "float16": 0.1}[precision]  # what 8 and 11 bits of its inputs leave of a sum


@pytest.mark.parametrize("dtype", SIXTEEN.values(), ids=SIXTEEN)
def test_an_activation_itself_loses_nothing_but_the_last_rounding(dtype: torch.dtype) -> None:
    narrow, wide = create_activation("hp1"), create_activation("hp1")
    x = (3 * torch.randn(4096, generator=torch.Generator().manual_seed(0))).to(dtype)
    y, expected = narrow(x), wide(x.float())
    assert torch.equal(y, expected.to(dtype))
    g = torch.randn(4096, generator=torch.Generator().manual_seed(1)).to(dtype)
    y.backward(g)
    expected.backward(g.float())
    for mine, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-5)


@pytest.mark.parametrize("precision", SIXTEEN)
@pytest.mark.parametrize("method", ["onecycle", "sgd-cosine"])
def test_training_learns(precision: str, method: str, source: Data, tmp_path: Path, console: Console) -> None:
    # Random labels: what falls is the loss on the batches that were learned by heart.
    lr = 0.003 if method == "onecycle" else 0.02
    recipe = make_recipe(method, mirrored=False, precision=precision, epochs=12, batch_size=16, lr=lr)
    run = train(make_job("lenet", "hp1", source, recipe), source, Options(tmp_path, curves=False), console)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.model.parameters())
    losses = [record["loss"] for record in run.history]
    print(losses)
    assert losses[-1] < losses[0]
    assert ("scale" in run.history[0]) == (precision == "float16")


def test_float16_leaves_out_steps_whose_gradients_are_not_finite(source: Data) -> None:
    run = begin("float16")
    run.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [p.detach().clone() for p in run.model.parameters()]
    record = train_epoch(run, source.train, lambda *_: None)
    assert record["steps_left_out"] == 2
    assert record["scale"] == 2.0**38
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert run.schedule.last_epoch == 0


def test_float32_is_what_it_is_without_any_of_this(source: Data) -> None:
    assert not begin("float32").precision.scaler.is_enabled()
    with begin("float32").precision.autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("name", "device"), [("float8", "cpu"), ("float32", "tpu")])
def test_unknown(name: str, device: str) -> None:
    with pytest.raises(TrainingError, match="expected one of float32, bfloat16, float16 on one of cpu, cuda"):
        Precision(name, device)


def test_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device cuda was asked for"):
        Precision("float32", "cuda")
