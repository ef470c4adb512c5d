"""What the op library needs, and which releases of Triton have it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from opau_onnx.deploy import elf, library, releases
from opau_onnx.errors import LibraryError
from opau_onnx.native.library import get_library_path
from tests.custom_ops.library import required_library

FACTS = library.Facts("libopau_onnx_ops-1-ab.so", "ab", "1", 21, "13.0", "x86_64", ("libc.so.6",), {"GLIBC": "2.35"})
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF files are Linux's")


def objdump(option: str, path: Path) -> str:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed (Debian: apt install binutils)")
    return subprocess.run(["objdump", option, str(path)], capture_output=True, text=True, check=True).stdout


@linux
@pytest.mark.parametrize("which", ["ours", "onnxruntime's"])
def test_read_as_objdump_reads(which: str) -> None:
    import onnxruntime

    if which == "ours":
        required_library()
        path = Path(get_library_path())
    else:  # C++ with symbols of several families
        path = next(Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so"))
    listing = objdump("-p", path)
    needed = re.findall(r"NEEDED +(\S+)", listing)
    versions = re.findall(r"0x[0-9a-f]+ 0x[0-9a-f]+ \d+ (\S+_[0-9.]+)$", listing, re.MULTILINE)
    assert versions, listing
    found = elf.read(path)
    assert list(found.needed) == needed
    assert found.versions == elf.newest(versions)
    assert f"architecture: {'i386:x86-64' if found.machine == 'x86_64' else found.machine}" in objdump("-f", path)


def test_versions_are_ordered_as_numbers() -> None:
    names = ["GLIBC_2.4", "GLIBC_2.35", "GLIBC_2.9", "GLIBC_PRIVATE", "GLIBCXX_3.4.9", "GLIBCXX_3.4.21"]
    assert elf.newest(names) == {"GLIBC": "2.35", "GLIBCXX": "3.4.21"}


@linux
def test_broken_files(tmp_path: Path) -> None:
    required_library()
    content = Path(get_library_path()).read_bytes()
    path = tmp_path / "broken.so"
    for broken in (b"", b"\xcf\xfa\xed\xfe" + bytes(60), content[:6], content[:70], content[:100000], content[:-500]):
        path.write_bytes(broken)
        with pytest.raises(LibraryError, match=r"ELF file"):
            elf.read(path)


def test_facts_of_this_library() -> None:
    required_library()
    found = library.read()
    assert found.api is not None
    assert found.api >= 21
    assert found.name == f"libopau_onnx_ops-{found.version}-{found.sha256[:12]}.so"
    assert "GLIBC" in found.versions


def test_facts_are_kept_beside_the_library(tmp_path: Path) -> None:
    (tmp_path / "libopau_onnx_ops-1-ab.json").write_text(FACTS.text())
    assert library.recorded(tmp_path) == [FACTS]
    (tmp_path / "libopau_onnx_ops-2-cd.json").write_text('{"name": 1}')
    with pytest.raises(LibraryError, match="no record of a library"):
        library.recorded(tmp_path)


def test_releases_that_fit() -> None:
    found = releases.fit(FACTS)
    assert found.oldest == releases.Release("26.07", "1.27.0")
    assert found.newest is not None
    assert found.same_cuda is not None
    assert found.same_cuda.name == "26.07"
    assert found.suggested == found.newest  # none that was tried is there


def test_releases_without_cuda_or_without_a_record() -> None:
    assert releases.fit(replace(FACTS, cuda=None)).same_cuda is None
    everything = releases.fit(None)
    assert everything.oldest == releases.Release("26.07", "1.27.0")
    assert releases.fit(replace(FACTS, api=None)).oldest == everything.oldest


def test_the_table_is_in_order() -> None:
    names = [elf.version_key(release.name) for release in releases.all_releases()]
    versions = [elf.version_key(release.onnxruntime) for release in releases.all_releases()]
    assert names == sorted(names, reverse=True)
    assert versions == sorted(versions, reverse=True)


@pytest.mark.parametrize(
    ("facts", "opset", "ir_version", "message"),
    [
        (FACTS, 20, 10, None),
        (None, 20, 10, None),
        (FACTS, 23, 10, "opset 23"),
        (FACTS, 20, 11, "IR version 11"),
        (replace(FACTS, versions={"GLIBC": "2.41"}), 20, 10, "glibc 2.41"),
        (replace(FACTS, api=99), 20, 10, "onnxruntime 1.99"),
    ],
)
def test_warnings(facts: library.Facts | None, opset: int, ir_version: int, message: str | None) -> None:
    found = releases.warnings(facts, opset, ir_version)
    assert (message is None) == (not found)
    assert message is None or message in found[0]
