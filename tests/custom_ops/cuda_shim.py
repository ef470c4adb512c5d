"""Builds and drives the CUDA kernels on the host: :file:`native/cuda_shim.hpp` says how."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from opau_onnx.core.spec import Config
from opau_onnx.native import DTYPES

ROOT = Path(__file__).resolve().parents[2] / "custom_ops"
NATIVE = Path(__file__).parent / "native"
SANITIZERS = "-fsanitize=address,alignment,bounds,shift,signed-integer-overflow"
"""The rest of UBSan's makes the compiler take minutes."""
FLAGS = ("-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-unknown-pragmas")


def unavailable() -> str | None:
    """Why the kernels cannot be compiled here."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    return None if headers() else "no nvcc, so no cuda_runtime.h"


def headers() -> Path | None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    done = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():  # e.g. #$ INCLUDES="-I/usr/local/cuda-13.0/bin/../targets/x86_64-linux/include"
        if line.startswith("#$ INCLUDES="):
            for part in line.split('"')[1:]:
                folder = Path(part.strip().removeprefix("-I"))
                if (folder / "cuda_runtime.h").is_file():
                    return folder
    beside = Path(nvcc).resolve().parents[1] / "include"
    return beside if (beside / "cuda_runtime.h").is_file() else None


def build(folder: Path, sanitized: bool = False) -> Path:
    """A library of all kernels, or of a few of them under the address and undefined behaviour sanitizers."""
    (folder / "opau").mkdir(exist_ok=True)
    subprocess.run([sys.executable, ROOT / "generate_tables.py", folder / "opau" / "tables.hpp"], check=True)
    command = ["g++", *FLAGS, "-include", NATIVE / "cuda_shim.hpp", "-isystem", headers()]
    command += [f"-I{ROOT}", f"-I{ROOT / 'include'}", f"-I{folder}"]
    command += ["-DOPAU_WITH_CUDA=1"]
    sources = [NATIVE / "cuda_shim.cpp", ROOT / "cpu" / "prepare.cpp", ROOT / "api" / "cuda_training_api.cpp"]
    if sanitized:
        command += ["-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all", "-DOPAU_SUBSET"]
    else:
        command += ["-O2"]
        sources += sorted((ROOT / "cuda").glob("*.cu"))

    def compiled(source: Path) -> Path:
        made = folder / f"{source.name}.o"
        subprocess.run([*command, *_fma(), "-x", "c++", "-c", source, "-o", made], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "libshim.so"
    link = [SANITIZERS] if sanitized else []
    subprocess.run(["g++", "-shared", *link, *objects, "-o", library], check=True)
    return library


def _fma() -> list[str]:
    """The processor's own fma, where it has one: libm's is slow, and the same."""
    cpu = Path("/proc/cpuinfo")
    return ["-mfma"] if cpu.is_file() and " fma " in cpu.read_text() else []


class Kernels:
    """A CUDA activation, run on the host.

    Args:
        upload: whether many groups' coefficients are put into "device" memory, as for constant ones, or go by value.
    """

    def __init__(
        self, library: Path, config: Config, numerator: Any, denominator: Any, dtype: str, upload: bool = True,
        affine: tuple[Any, Any] | None = None,
    ) -> None:  # fmt: skip
        self._library = ctypes.CDLL(str(library))
        self._library.shim_create.restype = ctypes.c_char_p
        self.config, self.dtype, self.launches = config, dtype, 0
        exact = np.float64 if dtype == "float64" else np.float32
        c, d = (np.ascontiguousarray(v, dtype=exact) for v in (numerator, denominator))
        self._handle = ctypes.c_void_p()
        around = [np.ascontiguousarray(v, dtype=exact) for v in affine or ()]
        k, l = config.degrees
        wide, pointer = ctypes.c_int64, ctypes.c_void_p
        message = self._library.shim_create(
            config.basis.encode(), config.form.encode(), wide(k), wide(l), wide(config.groups), DTYPES[dtype],
            pointer(c.ctypes.data), wide(c.shape[0] if c.ndim > 1 else 1), pointer(d.ctypes.data),
            wide(d.shape[0] if d.ndim > 1 else 1), *([pointer(v.ctypes.data) for v in around] or (None, None)), int(upload),
            ctypes.byref(self._handle),
        )  # fmt: skip
        assert message is None, message.decode()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.shim_destroy(self._handle)

    def run(
        self, x: Any, y: Any, extent: tuple[int, int, int], *,
        processors: int = 4, largest: tuple[int, int] = (0, 0), piece_limit: int = 1 << 30, writes: Any = None,
    ) -> None:  # fmt: skip
        """Into ``y``, of as many elements at any address. ``largest``: the most blocks along x and y, 0 for no limit."""
        wide, pointer, launches = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int()
        counts = pointer(None if writes is None else writes.ctypes.data)
        error = self._library.shim_run(
            self._handle, pointer(x.ctypes.data), pointer(y.ctypes.data), *(wide(n) for n in extent),
            wide(x.itemsize), processors, *largest, wide(piece_limit), counts, ctypes.byref(launches),
        )  # fmt: skip
        assert error == 0, error
        self.launches = launches.value
