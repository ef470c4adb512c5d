"""Continuing: the weights of an interrupted run are those of one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from training import TrainingError
from training.datasets import Data, read_data
from training.recipes import make_recipe
from training.report import Log
from training.run import Job, Options, finished, make_job, run, state_path, train
from training.state import describe_differences

from opau_onnx import models
from opau_onnx.errors import LoadError


@pytest.fixture(scope="module")
def source(idx_folder: Path) -> Data:
    return read_data("fashion-mnist", idx_folder)


class Dropping(nn.Module):
    """Draws from PyTorch's own generator, as dropout and drop path do."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        lenet = models.create("lenet", activation=activation, channels=3, size=32)
        self.net = nn.Sequential(nn.Dropout(0.3), lenet, nn.BatchNorm1d(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


@pytest.fixture(autouse=True)
def dropping(monkeypatch: pytest.MonkeyPatch) -> None:
    create = models.create
    monkeypatch.setattr(models, "create", lambda name, **a: Dropping(**a) if name == "dropping" else create(name, **a))


def job(source: Data, method: str = "onecycle", precision: str = "float32", architecture: str = "lenet", **options: Any) -> Job:
    recipe = make_recipe(method, mirrored=True, precision=precision, **{"epochs": 4, "batch_size": 24, "lr": 0.003} | options)
    made = make_job("lenet", "hp1", source, recipe)
    return Job(made.name, architecture, made.arguments, recipe)


class Stopped(Exception):
    pass


def interrupted(which: Job, source: Data, options: Options, console: Console, after: int) -> None:
    """Stop in the middle of the epoch that follows."""
    with pytest.MonkeyPatch.context() as patch:
        step, seen = torch.optim.Optimizer.zero_grad, []

        def counting(self: Any, *arguments: Any, **more: Any) -> None:
            seen.append(None)
            if len(seen) > after * source.train.steps(which.recipe.batch_size) + 1:
                raise Stopped
            step(self, *arguments, **more)

        patch.setattr(torch.optim.Optimizer, "zero_grad", counting)
        with pytest.raises(Stopped):
            train(which, source, options, console)


@pytest.mark.parametrize("architecture", ["lenet", "dropping"])
@pytest.mark.parametrize(("method", "precision"), [
    ("onecycle", "float32"), ("sgd-cosine", "float32"), ("sgd-step", "bfloat16"), ("sgd-cosine", "float16"),
])  # fmt: skip
def test_an_interrupted_run_ends_the_same(
    architecture: str, method: str, precision: str, source: Data, tmp_path: Path, console: Console
) -> None:
    which = job(source, method, precision, architecture)
    whole = train(which, source, Options(tmp_path / "whole", curves=False), console)
    options = Options(tmp_path / "parts", resume=True, curves=False)
    for after in (1, 2):
        interrupted(which, source, options, console, 1)
        assert len((tmp_path / "parts" / f"{which.name}.jsonl").read_text().splitlines()) == after
        torch.manual_seed(99)  # whatever happened in between
    parts = train(which, source, options, console)
    assert "continued after epoch 2/4" in console.export_text()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in parts.model.state_dict().items())
    without_time = [[{k: v for k, v in r.items() if k != "seconds"} for r in run.history] for run in (whole, parts)]
    assert without_time[0] == without_time[1]
    lines = (tmp_path / "parts" / f"{which.name}.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_testing_on_the_way_changes_nothing(source: Data, tmp_path: Path, console: Console) -> None:
    which = job(source, architecture="dropping")
    plain = train(which, source, Options(tmp_path / "a", curves=False), console)
    tested = train(which, source, Options(tmp_path / "b", curves=False, test_every=2), console)
    expected = plain.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in tested.model.state_dict().items())
    assert ["test_accuracy" in record for record in tested.history] == [False, True, False, True]


def test_without_resume_it_starts_anew(source: Data, tmp_path: Path, console: Console) -> None:
    which, options = job(source), Options(tmp_path, curves=False)
    interrupted(which, source, options, console, 2)
    assert len(train(which, source, options, console).history) == 4
    assert "continued" not in console.export_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"epochs": 5}, "epochs was 4, now 5"), ({"lr": 0.001}, r"lr was 0\.003, now 0\.001"), ({"seed": 3}, "seed was 0, now 3")],
)
def test_another_runs_state_is_refused(
    options: dict[str, Any], message: str, source: Data, tmp_path: Path, console: Console
) -> None:
    where = Options(tmp_path, resume=True, curves=False)
    interrupted(job(source), source, where, console, 1)
    with pytest.raises(TrainingError, match=message):
        train(job(source, **options), source, where, console)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["EVIL"])),)


DAMAGES = ("pickle", "torch", "truncated", "empty", "other", "missing part", "wrong shapes", "bad identity")


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_and_hostile_states(
    kind: str, source: Data, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    which, where = job(source), Options(tmp_path, resume=True, curves=False)
    path = state_path(which, where)
    interrupted(which, source, where, console, 1)
    content = torch.load(path, weights_only=True)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "torch":
        torch.save({**content, "rng": Evil()}, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other":
        torch.save({"format": "opau_onnx.checkpoint/1"}, path)
    elif kind == "missing part":
        torch.save({k: v for k, v in content.items() if k != "schedule"}, path)
    elif kind == "wrong shapes":
        torch.save({**content, "model": {"weight": torch.zeros(3)}}, path)
    else:
        torch.save({**content, "identity": 5}, path)
    with pytest.raises(LoadError, match="remove it to start anew") as caught:
        train(which, source, where, console)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) < 30
    assert not (tmp_path / "evil").exists()


def test_finished_runs_are_known(source: Data, tmp_path: Path, console: Console) -> None:
    which, options = job(source, epochs=1), Options(tmp_path, resume=True, curves=False)
    assert not finished(which, source, tmp_path)
    run(which, source, options, tmp_path, console)
    assert finished(which, source, tmp_path)
    assert not state_path(which, options).exists()
    assert not finished(job(source, epochs=2), source, tmp_path)
    with (tmp_path / f"{which.name}.pt").open("ab") as stream:
        stream.write(b"x")
    assert not finished(which, source, tmp_path)
    (tmp_path / f"{which.name}.json").write_text("[]")
    assert not finished(which, source, tmp_path)


def test_the_log_drops_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    log = Log(path, [{"epoch": 1}])
    log.add({"epoch": 2, "loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]
    with pytest.raises(ValueError, match="Out of range float values"):
        log.add({"loss": float("nan")})


def test_differences_name_the_innermost() -> None:
    found = describe_differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2, "d": (4,)})
    assert found == "b was 1, now 3, d was None, now [4]"
    assert describe_differences({"a": (1, 2)}, {"a": [1, 2]}) == ""
