"""A few of the flips of ``scripts/fuzz_files.py``, and that it sees what it looks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import fuzz_files

ROOT = Path(__file__).resolve().parents[1]


def raises() -> None:
    raise KeyError("groups")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def says_so() -> None:
    print("error: KeyError: 'groups' (this should not happen; --verbose shows where)")
    sys.exit(2)


def hangs() -> None:
    signal.pause()


ENDINGS: list[tuple[Callable[[], None], str | None]] = [
    (raises, "a traceback"),
    (dies, f"ended by signal {int(signal.SIGKILL)}"),
    (says_so, fuzz_files.UNEXPECTED),
    (hangs, "did not end within 0.5 s"),
    (lambda: sys.exit(3), "exit code 3"),
    (lambda: sys.exit(2), None),
    (lambda: None, None),
]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("main", "wrong"), ENDINGS)
def test_faults_are_seen(main: Callable[[], None], wrong: str | None, tmp_path: Path) -> None:
    limit = 0.5 if main is hangs else 60.0
    assert fuzz_files.run(main, ["opau"], tmp_path / "log", limit) == wrong


@pytest.mark.parametrize("command", ["collapse", "certify", "verify"])
def test_broken_files(command: str, tmp_path: Path) -> None:
    arguments = ["--flips", "5", "--seed", "11", "--commands", command, "--kept", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "fuzz_files.py"), *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{command}: " in done.stdout
