"""get_library_path and build_info: what they find, and what they say when there is nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import opau_onnx
from opau_onnx.errors import LibraryError
from opau_onnx.native import library


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package without a library: its lib/ folder."""
    monkeypatch.delenv(library.OVERRIDE, raising=False)
    monkeypatch.setattr(opau_onnx, "__path__", [str(tmp_path / "opau_onnx")])
    lib = tmp_path / "opau_onnx" / "lib"
    lib.mkdir(parents=True)
    return lib


def test_the_library_beside_the_package(package: Path) -> None:
    (package / library.NAME).touch()
    assert opau_onnx.get_library_path() == str((package / library.NAME).resolve())


def test_the_reason_of_the_build_is_told(package: Path) -> None:
    (package / "build.json").write_text(json.dumps({"built": False, "reason": "no C++ compiler was found. Install one"}))
    with pytest.raises(LibraryError, match=r"no C\+\+ compiler was found.*pip install"):
        library.get_library_path()
    assert library.build_info()["built"] is False


def test_a_library_that_went_missing(package: Path) -> None:
    (package / "build.json").write_text(json.dumps({"built": True, "reason": None}))
    with pytest.raises(LibraryError, match="is gone"):
        library.get_library_path()


@pytest.mark.parametrize("ask", [library.get_library_path, library.build_info])
def test_nothing_there(package: Path, ask: object) -> None:
    with pytest.raises(LibraryError, match="pip install"):
        ask()


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_record(package: Path, text: str) -> None:
    (package / "build.json").write_text(text)
    with pytest.raises(LibraryError, match=r"build\.json.*JSON"):
        library.build_info()


def test_the_environment_variable_wins(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / library.NAME).touch()
    other = tmp_path / "other.so"
    other.touch()
    (tmp_path / "build.json").write_text('{"built": true, "compiler": "other"}')
    monkeypatch.setenv(library.OVERRIDE, str(other))
    assert library.get_library_path() == str(other.resolve())
    assert library.build_info()["compiler"] == "other"


def test_a_variable_that_names_no_file(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / library.NAME).touch()
    monkeypatch.setenv(library.OVERRIDE, "nowhere.so")
    with pytest.raises(LibraryError, match=r"OPAU_LIBRARY is 'nowhere\.so'.*unset OPAU_LIBRARY"):
        library.get_library_path()


def test_it_imports_nothing_heavy() -> None:
    check = (
        "import sys, opau_onnx\n"
        "try:\n    opau_onnx.get_library_path()\nexcept opau_onnx.errors.LibraryError:\n    pass\n"
        "loaded = {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
