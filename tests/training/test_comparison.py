"""scripts/compare.py: what is concluded from runs, how they are kept and continued, and the whole on tiny data."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from training import TrainingError
from training.comparison import budget, page, paper, store, work
from training.comparison.conclusions import conclusions
from training.comparison.figures import difference, holm, summaries, width
from training.comparison.work import Settings
from training.datasets import read_data
from training.recipes import make_recipe
from training.run import begin
from typer.testing import CliRunner

from opau_onnx import models
from opau_onnx.errors import LoadError
from tests.custom_ops.library import required_library

from .conftest import SCRIPTS


def record(activation: str, seed: int, accuracy: float, seconds: float = 2.0) -> dict[str, Any]:
    epochs = [{"loss": 1.0, "accuracy": 0.5, "seconds": seconds}] * 2
    test = {"loss": 1.0, "accuracy": accuracy / 100}
    return {"activation": activation, "seed": seed, "test": test, "parameters": 10, "epochs": epochs}


RUNS = [
    *(record("relu", seed, value) for seed, value in enumerate((90.0, 91.0, 89.0))),
    *(record("hp1", seed, value, 5.0) for seed, value in enumerate((91.0, 92.1, 89.9))),  # always one point better
    *(record("gelu", seed, value) for seed, value in enumerate((91.0, 90.0, 90.0))),
    *(record("elu", seed, value) for seed, value in enumerate((88.0, 89.1, 87.05))),
    {"activation": "mish", "seed": 0, "failed": "mish: the loss is nan"},
]


def test_paired_differences() -> None:
    from scipy import stats

    found = {s.activation: s for s in summaries(RUNS)}
    assert list(found) == ["hp1", "gelu", "relu", "elu"]
    values = np.array([1.0, 1.1, 0.9])
    hp1 = found["hp1"].difference
    assert hp1 is not None
    assert hp1.mean == pytest.approx(1.0)
    assert hp1.deviation == pytest.approx(values.std(ddof=1))
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert hp1.half == pytest.approx((high - low) / 2)
    assert hp1.p == pytest.approx(stats.ttest_rel([91.0, 92.1, 89.9], [90.0, 91.0, 89.0]).pvalue)
    assert {name: s.difference and s.difference.verdict for name, s in found.items()} == {
        "hp1": "yes, better", "gelu": "no", "relu": None, "elu": "yes, worse",
    }  # fmt: skip
    assert (found["gelu"].mean, found["gelu"].epoch_seconds) == (pytest.approx(90.333333), 2.0)
    disturbed = [record("relu", 0, 90.0, 2.0), record("relu", 1, 90.0, 7.0), record("relu", 2, 90.0, 2.5)]
    assert summaries(disturbed)[0].epoch_seconds == 2.0
    assert found["gelu"].deviation == pytest.approx(np.std([91, 90, 90], ddof=1))


def test_only_common_seeds_are_paired() -> None:
    runs = [record("relu", 0, 90.0), record("relu", 1, 80.0), record("hp1", 1, 81.0), record("hp1", 2, 99.0)]
    found = {s.activation: s for s in summaries(runs)}["hp1"].difference
    assert found is not None
    assert (found.mean, found.seeds, found.half, found.verdict) == (pytest.approx(1.0), 1, math.inf, "not known: one seed")
    assert {s.activation: s.difference for s in summaries(runs[2:])} == {"hp1": None}


def test_differences_without_any_spread() -> None:
    assert difference([0.5, 0.5, 0.5]).verdict == "yes, better"
    assert (difference([0.0, 0.0]).verdict, difference([0.0, 0.0]).p) == ("no", 1.0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = [abs(d.mean - 0.3) <= d.half for d in (difference(list(rng.normal(0.3, 1.0, 3))) for _ in range(4000))]
    assert 0.94 < np.mean(held) < 0.96
    assert width(3) == pytest.approx(4.302653, rel=1e-6)


def test_holm() -> None:
    # The example of Holm's procedure: the smallest times 4, the next times 3, and never less than the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == {
        "d": pytest.approx(0.02), "a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06),
    }  # fmt: skip
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}


def test_conclusions() -> None:
    text = "\n".join(conclusions(summaries(RUNS), {"relu": {"median_s": 0.001}, "hp1": {"median_s": 0.0011}}))
    assert "better than ReLU: HP-1; worse than ReLU: ELU. No significant difference from ReLU: GELU." in text
    assert "Of 3 comparisons without a true difference, one in twenty" in text
    assert "A training epoch with HP-1 takes 2.50 times as long as with ReLU, inference 1.10 times as long." in text
    assert "HP-1 compared with ReLU: +1.00 ± 0.25 points" in text
    alone = conclusions(summaries(RUNS[:3]), {})
    assert alone == ["No activation shares two seeds with ReLU, so differences cannot be assessed."]


@pytest.mark.parametrize(("minutes", "epochs"), [(60.0, 14), (10.0, 2), (5.0, 1)])
def test_budget(minutes: float, epochs: int) -> None:
    # 150 s an epoch for all, 3 seeds, 2 side by side: 225 s.
    found = budget.choose(minutes, {"relu": 50.0, "hp1": 100.0}, 3, 2)
    assert found.epochs == epochs
    assert epochs * 225 <= 0.9 * minutes * 60


def test_budget_that_is_too_short() -> None:
    with pytest.raises(TrainingError, match=r"--time-budget 4 is too short, expected at least 4\.2"):
        budget.choose(4.0, {"relu": 50.0, "hp1": 100.0}, 3, 2)
    with pytest.raises(TrainingError, match="too short"):
        budget.choose(5.0, {"relu": 50.0, "hp1": 100.0}, 3, 2, spent=60.0)


def make_store(path: Path, runs: list[dict[str, Any]]) -> store.Store:
    recipe = make_recipe("onecycle", mirrored=True).describe()
    data = {"name": "Tiny", "training_images": 60_000, "test_images": 10_000}
    settings = {"architecture": "lenet", "recipe": recipe, "data": data}
    machine = {"cpu": "a processor", "gpu": None, "jobs": 2, "torch": "2", "onnxruntime": "1", "date": "2030-01-01"}
    about = budget.Budget(60.0, 9, {"relu": 5.0})
    return store.Store(path, settings, about.as_dict(), machine, "scripts/compare.py", runs)


def test_the_page(tmp_path: Path) -> None:
    kept = make_store(tmp_path / "c.json", RUNS)
    page.write(kept, tmp_path / "c.md", "c.png")
    text = (tmp_path / "c.md").read_text()
    assert "| HP-1 | 91.00 ± 1.10 | +1.00 ± 0.25 | yes, better | 10 | 5.0 |" in text
    assert "9 epochs each. The number of epochs was chosen to fit into 60 minutes" in text
    assert "mish: all runs failed" in text.replace("Mish", "mish")
    assert "**Not measured here.**" in text
    assert "| CIFAR-100 | PreActResNet-34 | +5.06 | +4.63 |" in text
    assert "nan" not in text.replace("the loss is nan", "")


def test_the_papers_lines_can_be_repeated() -> None:
    for row in paper.ROWS:
        assert row.architecture in models.ARCHITECTURES
        assert row.dataset in ("cifar-10", "cifar-100")
        assert f"--model {row.architecture} --dataset {row.dataset}" in paper.command(row)


def test_the_store_keeps_and_finds_what_is_missing(tmp_path: Path) -> None:
    kept = make_store(tmp_path / "c.json", RUNS[:4])
    kept.save()
    found = store.load(tmp_path / "c.json")
    assert found is not None
    assert found == kept
    assert found.missing(["relu", "hp1"], 3) == [("hp1", 1), ("hp1", 2)]
    assert found.missing(["gelu", "relu"], 2) == [("gelu", 0), ("gelu", 1)]
    assert store.load(tmp_path / "other.json") is None


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": "x"}', b'{"format": "opau_onnx.comparison/1"}', b"\xff"])
def test_files_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(LoadError, match=r"pass another --output|this version reads"):
        store.load(tmp_path / "c.json")


def test_runs_with_other_settings_are_not_mixed(idx_folder: Path, tmp_path: Path) -> None:
    source = read_data("fashion-mnist", idx_folder)

    def shared(**options: Any) -> dict[str, Any]:
        recipe = make_recipe("onecycle", mirrored=True, **options)
        return store.describe(Settings("lenet", "fashion-mnist", idx_folder, None, recipe, tmp_path), source)

    kept = make_store(tmp_path / "c.json", [])
    kept.settings = shared()
    store.check_same(kept, shared(seed=7))
    with pytest.raises(TrainingError, match="epochs was 15, now 16; pass another --output"):
        store.check_same(kept, shared(epochs=16))


def command(folder: Path, place: Path, *options: str) -> list[str]:
    fixed = ["--data", str(folder), "--output", str(place / "c"), "--work-dir", str(place / "work"), "--seeds", "2"]
    names = [part for name in ("relu", "hp1") for part in ("--activation", name)]
    return [sys.executable, "-W", "error", str(SCRIPTS / "compare.py"), *fixed, *names, *options]


def test_the_whole_killed_and_continued(idx_folder: Path, tmp_path: Path) -> None:
    required_library()
    options = ("--epochs", "30", "--batch-size", "32", "--batch", "8")
    marked = {**os.environ, "MARK": str(tmp_path)}
    with subprocess.Popen(command(idx_folder, tmp_path, *options), stdout=subprocess.PIPE, text=True, env=marked) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "1/4" in line:
                process.kill()
                break
    # The workers notice.
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (left := workers(tmp_path)):
        time.sleep(0.2)
    assert not left
    kept = json.loads((tmp_path / "work" / "c.json").read_text())["runs"]
    assert 1 <= len(kept) < 4
    assert not list(tmp_path.glob("c.*")), "results appear when all are there"
    again = command(idx_folder, tmp_path, *options, "--jobs", "1")
    done = subprocess.run(again, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["runs"][: len(kept)] == kept
    assert sorted((r["activation"], r["seed"]) for r in content["runs"]) == [("hp1", 0), ("hp1", 1), ("relu", 0), ("relu", 1)]
    assert all(len(r["epochs"]) == 30 for r in content["runs"])
    who = {name: result["implementation"] for name, result in content["inference"]["results"].items()}
    assert who == {
        "relu": "onnxruntime's own operators", "hp1": "4 activations by the compiled kernel on CPUExecutionProvider",
    }  # fmt: skip
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "| HP-1 | " in (tmp_path / "c.md").read_text()
    assert not list((tmp_path / "work").rglob("*.state.pt"))


def workers(place: Path) -> list[int]:
    """Processes with the environment of the marked one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"MARK={place}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --epochs or --time-budget"),
        (["--epochs", "1", "--time-budget", "5"], "give either --epochs or --time-budget"),
        (["--epochs", "1", "--activation", "hp3"], "unknown activation 'hp3'"),
        (["--epochs", "1", "--dataset", "svhn"], "unknown data set 'svhn'"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str, idx_folder: Path, tmp_path: Path) -> None:
    import compare as script

    app = typer.Typer()
    app.command()(script.main)
    result = CliRunner().invoke(app, [*command(idx_folder, tmp_path)[4:], *options])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def settings(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """In this process, as in a worker."""
    recipe = make_recipe("onecycle", mirrored=True, epochs=2, batch_size=8)
    found = Settings("lenet", "fashion-mnist", idx_folder, None, recipe, tmp_path)
    monkeypatch.setattr(work, "_data", found.read())
    return found


def test_seconds_of_an_epoch_are_told_beforehand(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(work.time, "perf_counter", lambda: float(next(ticks)))
    # 8 steps; each reads the clock once, so that it seems to take a second.
    assert work.seconds_per_epoch(settings, "relu") == pytest.approx(8.0)


def test_a_run_whose_loss_is_nan_is_kept_as_such(settings: Settings) -> None:
    bad = dataclasses.replace(settings, recipe=dataclasses.replace(settings.recipe, lr=1e30))
    assert "the loss is nan" in work.run(bad, "relu", 0)["failed"]
    good = work.run(settings, "hp1", 1)
    assert (good["activation"], good["seed"], len(good["epochs"])) == ("hp1", 1, 2)
    source = settings.read()
    assert len(list(settings.work.glob("*hp1*.state.pt"))) == 1
    work.forget(settings, "hp1", 1, source)
    assert not list(settings.work.glob("*hp1*.state.pt"))


def test_runs_of_one_seed_begin_alike(settings: Settings) -> None:
    source = settings.read()
    first, second = (begin(settings.job(name, 5, source), source) for name in ("relu", "hp1"))
    weights = dict(second.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in first.model.named_parameters())
    assert torch.equal(first.generator.get_state(), second.generator.get_state())
