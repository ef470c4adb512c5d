"""The memory of the GPUs of this machine, from NVIDIA's management library (NVML)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


def device_memory() -> list[tuple[int, int, int]]:
    """(index, bytes in use by all processes, bytes that there are) of each GPU; none without a driver.

    The index is NVML's and nvidia-smi's, whatever CUDA_VISIBLE_DEVICES says. Takes microseconds, but for the first call.
    """
    devices = _devices()
    if not devices:
        return []
    import pynvml

    found = ((index, _ask(pynvml.nvmlDeviceGetMemoryInfo, device)) for index, device in devices)
    return [(index, int(memory.used), int(memory.total)) for index, memory in found if memory is not None]


@cache
def _devices() -> tuple[tuple[int, Any], ...]:
    """NVML's handles; looked for once, since a driver does not come while a server runs."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except Exception:  # the package is missing, or there is no driver, or one that refuses: nothing to count
        return ()
    found = ((i, _ask(pynvml.nvmlDeviceGetHandleByIndex, i)) for i in range(count))
    return tuple((i, device) for i, device in found if device is not None)


def _ask(function: Callable[[Any], Any], about: Any) -> Any:
    """NVML's answer; None for a GPU that has none: it shares the host's memory, or fell off the bus."""
    import pynvml

    try:
        return function(about)
    except pynvml.NVMLError:
        return None
