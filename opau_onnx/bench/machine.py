"""Machine of a measurement."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from opau_onnx._version import __version__
from opau_onnx.bench.threads import physical_cores
from opau_onnx.errors import OpauError


def describe() -> dict[str, Any]:
    """Processor, cores, caches, instruction set of the kernel, versions."""
    import numpy
    import onnx
    import onnxruntime
    import torch

    return {
        "cpu": _cpu(),
        "cores": physical_cores(),
        "caches": _caches(),
        "instruction_set": instruction_set(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "opau_onnx": __version__,
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": numpy.__version__,
    }


class Others:
    """How busy other programs keep the processor, from the moment this is made (Linux)."""

    def __init__(self) -> None:
        self._begin = self._now()

    def cores(self) -> float | None:
        """Cores in use by others since then, on average, those of other virtual machines included; None where unknown."""
        wall, busy, own = (b - a for a, b in zip(self._begin, self._now(), strict=True))
        return round(max(0.0, busy - own) / wall, 2) if busy > 0 and wall > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: on the clock, of all processors, of this process and its ended children."""
        busy = 0.0
        with suppress(OSError, ValueError):
            user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
            busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, sum(os.times()[:4])


def library() -> tuple[str | None, str | None]:
    """The compiled library's path, or None and why there is none."""
    try:
        from opau_onnx.native.library import get_library_path

        return str(get_library_path()), None
    except (OpauError, OSError, ImportError) as error:
        return None, f"not built: {error}"


def instruction_set() -> str | None:
    """The one that the compiled kernel takes on this machine; None without the library."""
    path, _ = library()
    if path is None:
        return None
    from opau_onnx import native

    try:
        return native.instruction_sets(native.open_library(path))[-1]
    except (OSError, AttributeError, IndexError):
        return None


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Level -> size, e.g. L2 -> 512K, of one core (Linux)."""
    found: dict[str, str] = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError):
            if (index / "type").read_text().strip() != "Instruction":
                found[f"L{(index / 'level').read_text().strip()}"] = (index / "size").read_text().strip()
    return found
