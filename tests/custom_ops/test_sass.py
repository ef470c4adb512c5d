"""The CUDA machine code in the library: every architecture is there, nothing is spilled, and elements move by 16 bytes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opau_onnx.runtime.library import build_info, get_library_path
from tests.custom_ops.library import required_library

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
DTYPES, KERNELS = 4, 3 * 4 * 3
"""Kernels of a dtype: one row, few groups, many groups; four kinds of evaluation; three denominator modes."""


def disassembler() -> str:
    try:
        import nvidia
    except ImportError:
        folders = []
    else:
        folders = [Path(folder) / "cu13" / "bin" for folder in nvidia.__path__]
    for folder in [*folders, None]:
        found = shutil.which("cuobjdump", path=str(folder) if folder else None)
        if found:
            return found
    pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")


@contextmanager
def dump(*options: str) -> Iterator[Iterable[str]]:
    """Lines of cuobjdump, as they come: there can be half a gigabyte of them."""
    tool = disassembler()
    command = [tool, *options, get_library_path()]
    # It calls nvdisasm from its own folder, which need not be on the PATH.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PATH": str(Path(tool).parent)}) as process:
        assert process.stdout is not None
        yield process.stdout
    assert process.returncode == 0


@pytest.fixture(scope="module", autouse=True)
def cuda_library() -> None:
    required_library()
    if build_info()["cuda"]:
        return
    reason = f"a library without CUDA kernels: {build_info()['cuda_reason']}"
    if shutil.which("nvcc") and os.environ.get("OPAU_REQUIRE_LIBRARY") == "1":
        pytest.fail(f"OPAU_REQUIRE_LIBRARY=1 and nvcc is here, but the tests found {reason}")
    pytest.skip(reason)


MEMORY = re.compile(r"\b(LDG|STG|LDL|STL|LD|ST)\.[\w.]*|\b(?:LDL|STL)\b")
INTERESTING = re.compile(rf"REG:|{MEMORY.pattern}")


def kernels(*options: str) -> dict[tuple[str, str], list[str]]:
    """Interesting lines by (architecture, kernel)."""
    out: dict[tuple[str, str], list[str]] = {}
    lines: list[str] = []
    architecture = ""
    with dump(*options) as dumped:
        for line in dumped:
            if start := re.match(r"arch = (\w+)", line):
                architecture = start[1]
            elif start := re.match(r"\s*Function\s?:? (\S+?):?$", line):
                lines = out.setdefault((architecture, start[1]), [])
            elif INTERESTING.search(line):
                lines.append(line)
    return out


def test_the_library_holds_machine_code_for_each_architecture_and_ptx_for_later_ones() -> None:
    with dump("-lelf") as elf, dump("-lptx") as ptx:
        machine, portable = (Counter(re.findall(r"\.(sm_\d+)\.", "".join(lines))) for lines in (elf, ptx))
    assert set(machine) == set(ARCHITECTURES)
    assert min(machine.values()) >= DTYPES
    assert set(portable) == {"sm_75", "sm_120"}  # 75 for architectures between, such as 87, 88 and 110


def test_no_kernel_has_a_stack_or_local_memory() -> None:
    usage = kernels("-res-usage")
    assert Counter(architecture for architecture, _ in usage) == dict.fromkeys(ARCHITECTURES, DTYPES * KERNELS)
    for kernel, lines in usage.items():
        values = dict(re.findall(r"(\w+|CONSTANT\[0\]):(\d+)", "".join(lines)))
        assert values["STACK"] == values["LOCAL"] == "0", (kernel, lines)
        assert int(values["REG"]) <= 96, (kernel, lines)  # two blocks of 256 threads and more on a multiprocessor
        assert int(values["CONSTANT[0]"]) <= 5 * 1024, (kernel, lines)  # up to 4 KB of parameters, and the launch's own


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_elements_move_by_16_bytes(architecture: str) -> None:
    """The main loop does two packs in a pass: two loads and two stores of 128 bits, and no byte-wise or local access at all."""
    code = kernels("-sass", "-arch", architecture)
    assert len(code) == DTYPES * KERNELS
    for (_, name), lines in code.items():
        used = Counter(found[0].removesuffix(".SYS") for line in lines if (found := MEMORY.search(line)))
        wide = Counter({"load": 0, "store": 0})
        for instruction, count in used.items():
            assert not re.match("LDL|STL|ST\\b", instruction), (name, used)
            assert ".U8" not in instruction, (name, used)
            if ".128" in instruction:
                wide["load" if instruction.startswith("LDG") else "store"] += count
        assert wide == {"load": 2, "store": 2}, (name, used)
        if "shared_kernel" in name:  # coefficients come with the parameters: nothing else is read from memory
            assert sum(n for instruction, n in used.items() if instruction.startswith("LDG") and ".128" not in instruction) <= 4
            assert not any(instruction.startswith("LD.") for instruction in used), (name, used)
