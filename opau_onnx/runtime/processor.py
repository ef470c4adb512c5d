"""Properties of this machine's processor that change results."""

from __future__ import annotations

import platform
from pathlib import Path

_X86 = ("x86_64", "amd64")


def saturates_8_bit(cpuinfo: str | None = None) -> bool:
    """True on x86 processors without VNNI, where sums of products of uint8 and int8 saturate at 16 bits in onnxruntime.

    Args:
        cpuinfo: contents of Linux's /proc/cpuinfo; None for this machine's. Where there is none, False: it is not known.
    """
    if cpuinfo is None:
        if platform.machine().lower() not in _X86:
            return False
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return False
    flags = next((line.split(":", 1)[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return bool(flags) and not {"avx512_vnni", "avx_vnni"} & set(flags)
