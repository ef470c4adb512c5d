"""Check of onnxruntime's installation: several of its packages share one folder, and then none of them is whole."""

from __future__ import annotations

import logging
from functools import cache
from importlib import metadata, util

from opau_onnx._extras import remedy
from opau_onnx.errors import DeviceError

logger = logging.getLogger("opau_onnx")
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
"""Each of them installs the same Python module."""
_MEND = "Uninstall all of them, then install one: pip uninstall -y {all}; pip install {one}"


def packages() -> dict[str, str]:
    """Package -> version, of those that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def problem() -> str | None:
    """Fault of the installation with its remedy; None where one whole package, or a build of its own, is there.

    pip lets each package overwrite the files of the other, so the one installed last runs; and removing either takes the shared
    files away from the one that stays.
    """
    found = packages()
    if not found and not _whole():  # a build of one's own is on no list
        return f"onnxruntime, which runs the models, is not installed: {remedy('onnxruntime')}"
    if len(found) > 1:
        named = " and ".join(f"{name} {version}" for name, version in found.items())
        return (
            f"{named} are both installed: they overwrite each other's files, so what runs is a mixture, and removing one "
            f"breaks the other. {_mend(found)}"
        )
    if found and not _whole():
        return (
            f"pip lists {next(iter(found))}, but its files are gone, as they are where another package of onnxruntime was "
            f"removed beside it. {_mend(found)}"
        )
    return None


def _mend(found: dict[str, str]) -> str:
    one = "onnxruntime-gpu" if "onnxruntime-gpu" in found else next(iter(found))
    return _MEND.format(all=" ".join(found), one=one)


def _whole() -> bool:
    """A folder without __init__.py is still something that Python imports, with nothing in it."""
    spec = util.find_spec("onnxruntime")
    return spec is not None and spec.origin is not None


@cache
def check() -> None:
    """Say once what is wrong.

    Raises:
        DeviceError: nothing can run.
    """
    found = problem()
    if found is None:
        return
    if not _whole():
        raise DeviceError(found)
    logger.warning("%s", found)
