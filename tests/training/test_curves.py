"""The picture of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from training import TrainingError
from training.curves import check_matplotlib, draw_curves

HISTORY = [{"epoch": n, "loss": 2.0 / n, "accuracy": 0.1 * n, "lr": 0.1 / n} for n in range(1, 6)]


def test_the_picture_shows_what_was_measured(tmp_path: Path) -> None:
    draw_curves("a $net_1", HISTORY, tmp_path / "plain.png")
    with_test = [{**r, "test_loss": 1.0, "test_accuracy": 0.5} if r["epoch"] % 2 else r for r in HISTORY]
    draw_curves("a net", with_test, tmp_path / "tested.png")
    plain, tested = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "tested"))
    assert plain[:8] == tested[:8] == b"\x89PNG\r\n\x1a\n"
    assert plain != tested
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.png", "tested.png"]


def test_one_epoch(tmp_path: Path) -> None:
    draw_curves("short", HISTORY[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="--no-curves"):
        check_matplotlib()
