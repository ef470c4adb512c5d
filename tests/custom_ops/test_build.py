"""The build: what the library exports and needs, what is recorded, and what happens when a part of the build is missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from opau_onnx import __version__
from opau_onnx.errors import LibraryError
from opau_onnx.native.library import build_info, get_library_path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "custom_ops"
CMAKE = shutil.which("cmake", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))
HEADER = "onnxruntime_c_api.h"
needs_cmake = pytest.mark.skipif(CMAKE is None, reason="no cmake on this machine")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files or runs shell scripts")


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built() -> str:
    """The installed library. Where a compiler is, it must have been built: a skip would hide a broken build."""
    try:
        return get_library_path()
    except LibraryError:
        if shutil.which("g++") or shutil.which("c++"):
            raise
        pytest.skip("no compiler on this machine, so there is no library")


def test_the_record_fits_the_library(built: str) -> None:
    record = build_info()
    assert record["built"] is True
    assert record["reason"] is None
    assert record["version"] == __version__
    assert re.search(r"API version \d+", record["onnxruntime_headers"])
    assert record["compiler"]
    assert record["cuda"] is (record["cuda_reason"] is None)
    assert bool(record["cuda_architectures"]) is record["cuda"]


@linux
def test_only_the_interface_is_exported(built: str) -> None:
    names = {line.split()[-1] for line in run("nm", "-D", "--defined-only", built).splitlines()}
    assert names
    assert not [name for name in names if name != "RegisterCustomOps" and not name.startswith("opau_")]


@linux
def test_neither_onnxruntime_nor_cuda_is_needed(built: str) -> None:
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", built))
    allowed = ("libc.", "libm.", "libpthread.", "libdl.", "librt.", "ld-linux")
    if build_info()["sanitizers"]:
        allowed += ("libstdc++.", "libgcc_s.", "libasan.", "libubsan.", "libtsan.")
    assert not [name for name in needed if not name.startswith(allowed)]


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 machine code")
def test_each_instruction_set_keeps_its_own_code(built: str) -> None:
    """No fused instruction in the code for every processor, no call of the C library for it where the instruction is.

    Read in the build's folder where the installation stripped the names.
    """
    candidates = [Path(built), *sorted(ROOT.glob("build/*/libopau_onnx_ops.so"), key=lambda p: p.stat().st_mtime, reverse=True)]
    named = next((path for path in candidates if "N4opau8baseline" in run("nm", path)), None)
    if named is None:
        pytest.skip("the library is stripped, and the folder that it was built in is gone")
    fused: dict[str, set[str]] = {"baseline": set(), "scalar_fma": set(), "avx2": set(), "avx512": set()}
    space = None
    for line in run("objdump", "-d", "--no-show-raw-insn", named).splitlines():
        if found := re.match(r"[0-9a-f]+ <.*?N4opau(?:8baseline|10scalar_fma|4avx2|6avx512)", line):
            space = re.sub(r"^\d+", "", found[0].rpartition("N4opau")[2])
        elif re.match(r"[0-9a-f]+ <", line):
            space = None
        elif space is not None and (found := re.search(r"\tvf(?=n?m(?:add|sub))|call.*<fmaf?(?=@plt>)", line)):
            fused[space].add("instruction" if found[0] == "\tvf" else "call")
    instruction, call = {"instruction"}, {"call"}
    assert fused == {"baseline": call, "scalar_fma": instruction, "avx2": instruction, "avx512": instruction}


def without_compiler(tmp_path: Path) -> tuple[dict[str, Any], str]:
    log = run(
        CMAKE, "-S", SOURCE, "-B", tmp_path / "build", f"-DCMAKE_INSTALL_PREFIX={tmp_path / 'out'}",
        CXX="/nowhere/c++", CC="/nowhere/cc",
    )  # fmt: skip
    run(CMAKE, "--build", tmp_path / "build")
    run(CMAKE, "--install", tmp_path / "build")
    return json.loads((tmp_path / "out/opau_onnx/lib/build.json").read_text()), log


@needs_cmake
def test_without_a_compiler_the_package_says_what_to_install(tmp_path: Path) -> None:
    record, log = without_compiler(tmp_path)
    assert record["built"] is False
    assert record["cuda"] is False
    assert "no C++ compiler was found. Install one" in record["reason"]
    assert "CMake Warning" in log


def on_terminal(*command: object, **environment: str) -> str:
    """What a command writes on its terminal past its output, which goes to a pipe, as pip's builds do."""
    program = (
        "import fcntl, subprocess, sys, termios\n"
        "fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)\n"
        "sys.exit(subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL, capture_output=True).returncode)"
    )
    master, slave = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", program, str(slave), *map(str, command)],
            check=True, timeout=120, env={**os.environ, **environment}, start_new_session=True, pass_fds=[slave],
        )  # fmt: skip
        os.set_blocking(master, False)
        return os.read(master, 100_000).decode()
    except BlockingIOError:
        return ""
    finally:
        os.close(slave)
        os.close(master)


@needs_cmake
@linux
@pytest.mark.parametrize("by_pip", [True, False])
def test_without_a_compiler_the_terminal_is_told_past_pip(tmp_path: Path, by_pip: bool) -> None:
    options = ["-DSKBUILD=2"] if by_pip else []
    text = on_terminal(CMAKE, "-S", SOURCE, "-B", tmp_path, *options, CXX="/nowhere/c++", CC="/nowhere/cc")
    assert ("WARNING: The compiled op library is not built: no C++ compiler was found" in text) is by_pip


@needs_cmake
def test_without_the_header_the_package_says_where_it_was_sought(tmp_path: Path) -> None:
    if not (shutil.which("g++") or shutil.which("c++")):
        pytest.skip("no compiler on this machine")
    log = run(CMAKE, "-S", SOURCE, "-B", tmp_path, f"-DOPAU_ORT_INCLUDE={tmp_path}/nowhere", "-DOPAU_CUDA=OFF")
    record = json.loads((tmp_path / "build.json").read_text())
    assert record["built"] is False
    assert re.search(rf"nowhere holds no {HEADER}.*OPAU_ORT_INCLUDE", record["reason"])
    assert "CMake Warning" in log


def test_the_record_of_a_failed_build_has_every_key(built: str) -> None:
    failed = json.loads((SOURCE / "cmake/failed/lib/build.json").read_text())
    assert failed.keys() == build_info().keys()
    assert failed["built"] is False
    assert failed["reason"]


LOOKUP = f"""
cmake_minimum_required(VERSION 3.22)
project(lookup LANGUAGES NONE)
list(APPEND CMAKE_MODULE_PATH "{SOURCE.as_posix()}/cmake")
include(Options)
include(OrtHeader)
set(CMAKE_FIND_USE_CMAKE_SYSTEM_PATH OFF)  # what this machine really has
set(CMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH OFF)
opau_find_ort_header()
file(WRITE "${{CMAKE_BINARY_DIR}}/found" "${{OPAU_ORT_HEADER_NOTE}}|${{OPAU_ORT_HEADER_REASON}}")
"""


class Machine:
    """A machine with nothing on it but the sources of the header that a test adds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.options = {
            "OPAU_CACHE": str(root / "cache"),
            "OPAU_ORT_RELEASE_URL": (root / "missing.tgz").as_uri(),
        }
        (root / "project").mkdir()
        (root / "project/CMakeLists.txt").write_text(LOOKUP.replace("include(Options)", f'include("{self.settings()}")'))

    def settings(self) -> str:
        """Options.cmake finds the version beside custom_ops/, where this project does not lie."""
        text = (SOURCE / "cmake/Options.cmake").read_text()
        path = self.root / "Options.cmake"
        path.write_text(text.replace("${CMAKE_CURRENT_SOURCE_DIR}", SOURCE.as_posix()))
        return path.as_posix()

    def header(self, folder: str, version: int = 21) -> Path:
        path = self.root / folder / HEADER
        path.parent.mkdir(parents=True)
        path.write_text(f"#define ORT_API_VERSION {version}\n")
        return path.parent

    def package(self, version: int = 21) -> None:
        self.options["CMAKE_INCLUDE_PATH"] = str(self.header("system/onnxruntime", version).parent)

    def release(self) -> None:
        header = self.header("release/onnxruntime-linux-x64/include", 22)
        with tarfile.open(self.root / "release.tgz", "w:gz") as archive:
            archive.add(header.parent, "onnxruntime-linux-x64")
        self.options["OPAU_ORT_RELEASE_URL"] = (self.root / "release.tgz").as_uri()

    def debian(self) -> None:
        programs = self.root / "programs"
        programs.mkdir()
        scripts = {
            "apt-get": '. /etc/os-release; case "$*" in *download*) touch package.deb;;\n'
            '*indextargets*) echo "http://mirror.invalid/debian $VERSION_CODENAME main";; esac',
            "dpkg": 'mkdir -p "$3/usr/include"; echo "#define ORT_API_VERSION 23" > "$3/usr/include/' + HEADER + '"',
        }
        for name, text in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        self.options["CMAKE_PROGRAM_PATH"] = str(programs)

    def find(self, **environment: str) -> tuple[str, str]:
        """The note of what was found, and the reason when nothing was."""
        clean = {"OPAU_ORT_INCLUDE": "", "onnxruntime_ROOT": ""}
        options = [f"-D{key}={value}" for key, value in self.options.items()]
        shutil.rmtree(self.root / "build", ignore_errors=True)
        run(CMAKE, "-S", self.root / "project", "-B", self.root / "build", *options, **{**clean, **environment})
        note, reason = (self.root / "build/found").read_text().split("|")
        return note, reason


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@needs_cmake
@linux
def test_the_header_is_taken_from_the_first_source_that_has_it(machine: Machine) -> None:
    note, reason = machine.find()
    assert not note
    for part in ("no package", "release archive could not be fetched", "apt-get and dpkg"):
        assert part in reason
    machine.debian()
    assert machine.find()[0] == "Debian's libonnxruntime-dev of trixie, API version 23"
    shutil.rmtree(machine.root / "cache")
    machine.release()
    assert machine.find()[0] == "the official release 1.21.0, API version 22"
    machine.package()
    assert machine.find()[0].startswith("the system's package")
    given = machine.header("given/include", 24)
    assert machine.find(onnxruntime_ROOT=str(given.parent))[0] == f"the folder given, {given}, API version 24"
    machine.options["OPAU_ORT_INCLUDE"] = str(machine.header("named", 25))
    assert machine.find(onnxruntime_ROOT=str(given.parent))[0].endswith("API version 25")


@needs_cmake
def test_a_fetched_header_is_kept(machine: Machine) -> None:
    machine.release()
    assert machine.find()[0].startswith("the official release")
    machine.options["OPAU_FETCH"] = "OFF"
    assert machine.find()[0].startswith("the official release")


@needs_cmake
def test_an_archive_with_another_hash_is_refused(machine: Machine) -> None:
    machine.release()
    machine.options["OPAU_ORT_RELEASE_SHA256"] = "0" * 64
    note, reason = machine.find()
    assert not note
    assert "not the one given" in reason


@needs_cmake
def test_an_old_header_is_passed_over(machine: Machine) -> None:
    machine.package(version=12)
    machine.options["OPAU_FETCH"] = "OFF"
    note, reason = machine.find()
    assert not note
    assert "switched off" in reason
    note, reason = machine.find(OPAU_ORT_INCLUDE=str(machine.root / "system"))
    assert not note
    assert "API version '12', at least 21 is needed" in reason
