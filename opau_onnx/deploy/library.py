"""Requirements of the op library on the machine that loads it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opau_onnx.deploy import elf
from opau_onnx.errors import LibraryError
from opau_onnx.native.library import build_info, get_library_path


@dataclass(frozen=True)
class Facts:
    """Properties of a library.

    Attributes:
        name: of its copies: with version and hash, so that another library never takes its place in a running server.
        sha256: of its bytes.
        version: of the package that it was built from.
        api: of onnxruntime's C interface: it needs that minor version of onnxruntime 1 or a newer one; None where not recorded.
        cuda: the CUDA it was built with, such as "13.0"; None without CUDA kernels.
        machine: such as "x86_64".
        needed: names of the libraries that are loaded with it.
        versions: the newest symbols it needs, such as {"GLIBC": "2.35"}.
    """

    name: str
    sha256: str
    version: str
    api: int | None
    cuda: str | None
    machine: str
    needed: tuple[str, ...]
    versions: Mapping[str, str]

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read(path: Path | None = None) -> Facts:
    """The facts of this package's library; ``OPAU_LIBRARY`` names another, such as one for another machine.

    Raises:
        LibraryError: there is none, or it is not one of Linux.
        OSError: it cannot be read.
    """
    path = path or Path(get_library_path())
    record = build_info()
    found = elf.read(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    version = str(record.get("version") or "unknown")
    name = f"libopau_onnx_ops-{version}-{digest[:12]}.so"
    return Facts(name, digest, version, _api(record), _cuda(record), found.machine, found.needed, found.versions)


def _api(record: dict[str, Any]) -> int | None:
    found = re.search(r"API version (\d+)", str(record.get("onnxruntime_headers")))
    return int(found[1]) if found else None


def _cuda(record: dict[str, Any]) -> str | None:
    found = re.search(r"nvcc (\d+\.\d+)", str(record.get("compiler")))
    if not record.get("cuda"):
        return None
    return found[1] if found else "unknown"


def recorded(folder: Path) -> list[Facts]:
    """Those whose facts lie in a folder, in order of their names.

    Raises:
        LibraryError: a record that is none.
    """
    found = []
    for path in sorted(folder.glob("libopau_onnx_ops-*.json")):
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            found.append(Facts(**{**raw, "needed": tuple(raw["needed"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise LibraryError(f"{path} is no record of a library ({error}); remove it and deploy its models again") from None
    return found
