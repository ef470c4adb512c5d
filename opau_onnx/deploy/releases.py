"""Which onnxruntime Triton's containers carry, and which of them a library and a file fit."""

from __future__ import annotations

from dataclasses import dataclass

from opau_onnx.deploy.elf import version_key
from opau_onnx.deploy.library import Facts

SOURCE = (
    "NVIDIA's table of ONNX Runtime versions (docs/introduction/compatibility.md of triton-inference-server/server), as it was "
    "with release 26.08"
)
PUBLISHED = {
    "26.08": "1.28.0", "26.07": "1.27.0", "26.06": "1.24.4", "26.05": "1.24.4", "26.04": "1.24.4", "26.03": "1.24.2",
    "26.02": "1.24.1", "26.01": "1.23.2", "25.12": "1.23.2", "25.11": "1.23.2", "25.10": "1.23.1", "25.09": "1.23.0",
    "25.08": "1.23.0", "25.07": "1.22.0", "25.06": "1.22.0", "25.05": "1.22.0", "25.04": "1.21.0", "25.03": "1.21.0",
    "25.02": "1.20.1", "25.01": "1.20.1", "24.12": "1.20.1",
}  # fmt: skip
"""onnxruntime by Triton's release, newest first. Release 25.08 was built from a commit before 1.23.0."""
CUDA_13 = "25.08"
"""The first release on CUDA 13; those before it are on CUDA 12 (release notes of 25.06 and 25.08)."""
GLIBC = "2.39"
"""Of the containers: Ubuntu 24.04 in all releases above."""
DRIVERS = {"12": "525", "13": "580"}
"""The oldest NVIDIA driver of each major version of CUDA."""
OLDEST = "1.27"
"""Older ones ignore a function's ``overload``: files with several kinds of activations give wrong numbers, in silence."""
TRIED = ("1.31", "1.32")
"""Versions of onnxruntime with which this project ran the library, outside of Triton."""
FILES = (21, 22, 10)
"""onnxruntime 1.21 knows ONNX 1.17, that is opset 22 and IR version 10; newer ones know more."""


@dataclass(frozen=True)
class Release:
    """One of Triton.

    Attributes:
        name: "YY.MM".
        onnxruntime: its version.
    """

    name: str
    onnxruntime: str

    @property
    def minor(self) -> str:
        """onnxruntime's version without the last number."""
        return self.onnxruntime.rpartition(".")[0]


@dataclass(frozen=True)
class Fit:
    """Releases that a library fits, as their containers were published.

    Attributes:
        oldest, newest: of those that fit; None where none does.
        suggested: one of them whose onnxruntime was tried with the library, if there is one.
        same_cuda: the oldest one with the CUDA of the library's kernels; None where it has none or none fits.
    """

    oldest: Release | None
    newest: Release | None
    suggested: Release
    same_cuda: Release | None


def all_releases() -> list[Release]:
    """The published ones, newest first."""
    return [Release(name, version) for name, version in PUBLISHED.items()]


def fit(library: Facts | None) -> Fit:
    """The releases for a library; all from :data:`OLDEST` on where there is none, or where it is not recorded what it needs."""
    known = all_releases()
    api = library.api if library is not None else None
    right = [r for r in known if version_key(r.onnxruntime) >= version_key(OLDEST)]
    fits = [r for r in right if api is None or version_key(r.onnxruntime)[1] >= api]
    cuda = library.cuda if library is not None else None
    same = [r for r in fits if cuda is not None and cuda.partition(".")[0] == cuda_major(r)]
    tried = [r for r in same or fits if r.minor in TRIED]
    suggested = (tried or same or fits or known)[0]
    return Fit(fits[-1] if fits else None, fits[0] if fits else None, suggested, same[-1] if same else None)


def cuda_major(release: Release) -> str:
    """Of the CUDA in its containers."""
    return "13" if version_key(release.name) >= version_key(CUDA_13) else "12"


def warnings(library: Facts | None, opset: int, ir_version: int) -> list[str]:
    """Why a model with this library may not load in NVIDIA's containers."""
    found = []
    oldest, largest_opset, largest_ir = FILES
    if opset > largest_opset or ir_version > largest_ir:
        found.append(
            f"the file has opset {opset} and IR version {ir_version}; onnxruntime 1.{oldest} ends at {largest_opset} and "
            f"{largest_ir}: take a newer release of Triton, or export with an older opset"
        )
    if library is None:
        return found
    if version_key(library.versions.get("GLIBC", "")) > version_key(GLIBC):
        found.append(
            f"the op library needs glibc {library.versions['GLIBC']}, and NVIDIA's containers have {GLIBC}: build it on an "
            "older system, or run Triton on one like this"
        )
    if fit(library).oldest is None:
        found.append(f"the op library needs onnxruntime 1.{library.api}, which no release of Triton that is known here carries")
    return found
