"""The library's sanitizer builds, driven through onnxruntime: every dtype and sharing, in place, several threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.custom_ops.library import required_library

ROOT = Path(__file__).resolve().parents[2]
NATIVE = Path(__file__).parent / "native"
OPTIONS = {
    "asan": {"ASAN_OPTIONS": "detect_leaks=0:exitcode=66"},  # leaks: Python itself never frees everything
    "tsan": {"TSAN_OPTIONS": f"exitcode=66:suppressions={NATIVE / 'tsan.supp'}"},
}
PRELOAD = {"asan": ("libasan.so", "libubsan.so"), "tsan": ("libtsan.so",)}


def built(preset: str) -> Path:
    """The preset's library; the folder is kept, so only what changed is compiled."""
    required_library()  # the same compiler and header
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are not installed")
    for command in (["cmake", "--preset", preset], ["cmake", "--build", "--preset", preset, "-j2"]):
        subprocess.run(command, cwd=ROOT / "custom_ops", check=True, capture_output=True)
    return ROOT / "build" / preset / "libopau_onnx_ops.so"


def driven(preset: str, library: Path, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    paths = [
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in PRELOAD[preset]
    ]
    missing = [path for path in paths if not Path(path).is_absolute()]
    if missing:
        pytest.skip(f"the compiler has no {', '.join(missing)}")
    environment = os.environ | OPTIONS[preset] | {"LD_PRELOAD": ":".join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, NATIVE / "drive.py", library, *arguments], env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.parametrize("preset", OPTIONS)
def test_nothing_to_report(preset: str) -> None:
    result = driven(preset, built(preset))
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip() == "driven"


def test_the_address_sanitizer_would_report() -> None:
    """The same run, told to hand the library a buffer that is too short."""
    result = driven("asan", built("asan"), ("--break",))
    assert result.returncode == 66
    assert "ERROR: AddressSanitizer" in result.stderr  # an unaligned vector over the end is an "unknown-crash"
