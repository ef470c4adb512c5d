"""The CUDA machine code in the library: what it was built for is there, nothing is spilled, and elements move by 16 bytes."""

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

from opau_onnx.native.library import build_info, get_library_path
from tests.custom_ops.library import required_library

SOURCE = Path(__file__).resolve().parents[2] / "custom_ops"

RELEASED = ["75", "80-real", "86-real", "89-real", "90-real", "100-real", "120"]
"""What a release holds: PTX of 75 for architectures between, such as 87, 88 and 110; of 120 for later ones."""
DTYPES, KERNELS = 4, 3 * 4 * 3
"""Kernels of a dtype: one row, few groups, many groups; four kinds of evaluation; three denominator modes."""
BACKWARD = 2 * 3 * 3
"""By 16 bytes and one by one; three kinds, since powers go by the closed forms; three modes."""
INFERENCE = re.compile("shared_kernel|few_groups_kernel|many_groups_kernel")


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


def built() -> list[str]:
    """What the library was built for, as CMake names it."""
    named: list[str] = build_info()["cuda_architectures"]
    if named == ["native"]:
        pytest.skip("built for this machine's GPU alone")
    if os.environ.get("OPAU_REQUIRE_ARCHITECTURES") == "1":
        assert named == RELEASED
    return named


def machines() -> list[str]:
    return [f"sm_{name.removesuffix('-real')}" for name in built()]


MEMORY = re.compile(r"\b(LDG|STG|LDL|STL|LD|ST)\.[\w.]*|\b(?:LDL|STL)\b")
INTERESTING = re.compile(rf"REG:|{MEMORY.pattern}")


def kernels(which: re.Pattern[str], *options: str) -> dict[tuple[str, str], list[str]]:
    """Interesting lines by (architecture, kernel), of kernels that are named so."""
    out: dict[tuple[str, str], list[str]] = {}
    lines: list[str] = []
    architecture = ""
    with dump(*options) as dumped:
        for line in dumped:
            if start := re.match(r"arch = (\w+)", line):
                architecture = start[1]
            elif start := re.match(r"\s*Function\s?:? (\S+?):?$", line):
                lines = out.setdefault((architecture, start[1]), []) if which.search(start[1]) else []
            elif INTERESTING.search(line):
                lines.append(line)
    return out


def test_the_library_holds_machine_code_for_each_architecture_and_ptx_for_later_ones() -> None:
    with dump("-lelf") as elf, dump("-lptx") as ptx:
        machine, portable = (Counter(re.findall(r"\.(sm_\d+)\.", "".join(lines))) for lines in (elf, ptx))
    assert set(machine) == set(machines())
    assert min(machine.values()) >= DTYPES
    assert set(portable) == {f"sm_{name}" for name in built() if not name.endswith("-real")}


def test_what_a_release_holds_is_the_builds_default() -> None:
    options = (SOURCE / "cmake" / "Options.cmake").read_text()
    assert f'set(OPAU_CUDA_ARCHITECTURES "{";".join(RELEASED)}" ' in options


def test_no_kernel_has_a_stack_or_local_memory() -> None:
    usage = used(INFERENCE)
    assert Counter(architecture for architecture, _ in usage) == dict.fromkeys(machines(), DTYPES * KERNELS)
    for kernel, values in usage.items():
        lines = values
        assert values["STACK"] == values["LOCAL"] == "0", (kernel, lines)
        assert int(values["REG"]) <= 96, (kernel, lines)  # two blocks of 256 threads and more on a multiprocessor
        assert int(values["CONSTANT[0]"]) <= 5 * 1024, (kernel, lines)  # up to 4 KB of parameters, and the launch's own


def used(which: re.Pattern[str]) -> dict[tuple[str, str], dict[str, str]]:
    """What each kernel takes of registers, stack and constants."""
    found = kernels(which, "-res-usage")
    return {name: dict(re.findall(r"(\w+|CONSTANT\[0\]):(\d+)", "".join(lines))) for name, lines in found.items()}


def test_registers_of_the_backward_pass() -> None:
    """Three blocks of 256 threads on a multiprocessor, but for float64. The stack is for the rare elements beyond the limit."""
    usage = used(re.compile("backward_kernel"))
    assert Counter(architecture for architecture, _ in usage) == dict.fromkeys(machines(), DTYPES * BACKWARD)
    for name, values in usage.items():
        assert int(values["REG"]) <= (255 if "DtypeE11" in name[1] else 80), (name, values)


def test_the_backward_pass_moves_by_16_bytes() -> None:
    """Its packed loop: x and g are read and dx is written by 128 bits."""
    code = kernels(re.compile("backward_kernel.*KindE[12].*ModeE.ELb1E"), "-sass")
    assert len(code) == DTYPES * 2 * 3 * len(machines())
    for name, lines in code.items():
        wide = Counter(found[1] for line in lines if (found := MEMORY.search(line)) and ".128" in found[0])
        assert wide["LDG"] >= 2, (name, wide)
        assert wide["STG"] + wide["ST"] >= 1, (name, wide)


def test_elements_move_by_16_bytes() -> None:
    """The main loop does two packs in a pass: two loads and two stores of 128 bits, and no byte-wise or local access at all."""
    code = kernels(INFERENCE, "-sass")
    assert len(code) == DTYPES * KERNELS * len(machines())
    for name, lines in code.items():
        used = Counter(found[0].removesuffix(".SYS") for line in lines if (found := MEMORY.search(line)))
        wide = Counter({"load": 0, "store": 0})
        for instruction, count in used.items():
            assert not re.match("LDL|STL|ST\\b", instruction), (name, used)
            assert ".U8" not in instruction, (name, used)
            if ".128" in instruction:
                wide["load" if instruction.startswith("LDG") else "store"] += count
        assert wide == {"load": 2, "store": 2}, (name, used)
        if "shared_kernel" in name[1]:  # coefficients come with the parameters: nothing else is read from memory
            assert sum(n for instruction, n in used.items() if instruction.startswith("LDG") and ".128" not in instruction) <= 4
            assert not any(instruction.startswith("LD.") for instruction in used), (name, used)
