"""onnxruntime sessions that say what runs the learned activations."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opau_onnx.errors import DeviceError, LibraryError, SpecError
from opau_onnx.graph import coverage as models
from opau_onnx.native.library import build_info, get_library_path, say_missing
from opau_onnx.runtime import installation
from opau_onnx.runtime.assignment import RECORD, Assignment, assignments
from opau_onnx.runtime.optimize import blocked_session

if TYPE_CHECKING:
    import onnx
    import onnxruntime

logger = logging.getLogger("opau_onnx")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Device = Literal["auto", "cpu", "cuda"]
_registered_on: weakref.WeakSet[Any] = weakref.WeakSet()
"""Session options that have the library; onnxruntime does not tell."""
_REGISTERED_TWICE = "Domain already set in registry"
FATAL = 4
"""Of onnxruntime's log levels."""


def quiet_run() -> onnxruntime.RunOptions:
    """Options of a run in which onnxruntime writes no line of its own on standard error; what fails is raised all the same."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    return options


def quiet_options(**settings: Any) -> onnxruntime.SessionOptions:
    """Session options that log nothing but fatal errors.

    Args:
        settings: attributes of ``onnxruntime.SessionOptions`` besides, e.g. ``intra_op_num_threads=1``.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in {"log_severity_level": FATAL, **settings}.items():
        setattr(options, name, value)
    return options


def create_session(
    model: str | Path | bytes | onnx.ModelProto,
    device: Device = "auto",
    *,
    library: bool | str | Path | Literal["auto"] = "auto",
    session_options: onnxruntime.SessionOptions | None = None,
    provider_options: dict[str, Any] | None = None,
    optimize: Literal["layout", "none"] = "layout",
) -> onnxruntime.InferenceSession:
    """An onnxruntime session in which the compiled op library runs the learned activations.

    Args:
        model: path, bytes or onnx.ModelProto.
        device: "cpu"; "cuda", which fails where CUDA cannot run; "auto", CUDA where it can, else the CPU.
        library: "auto", registered where it was built and covers the model, else the function bodies run; True, an error
            where it cannot; False, function bodies; or the path of another library.
        session_options: taken as they are, apart from the record of assignments, which is switched on. The library is
            registered on them, once, however many sessions they make; where you registered it yourself, pass library=False.
        provider_options: of the CUDA provider, as onnxruntime documents them, e.g. {"device_id": 0}.
        optimize: "layout", on the CPU: activations between convolutions run inside onnxruntime's blocked layout, without its
            reorders around them. The model for that is made once, found to give the same bits, and kept in a cache
            (:func:`opau_onnx.runtime.optimize.cache_folder`); where it does not apply the log says why. "none": as it is.

    Returns:
        The session. What runs the activations is logged (logger "opau_onnx", INFO; WARNING where the library was wanted and the
        function bodies run, once in a process where it is not installed) and returned by
        :func:`opau_onnx.runtime.assignment.assignments`.

    Raises:
        DeviceError: CUDA was asked for and cannot run, or onnxruntime's files are gone.
        LibraryError: the library was demanded and is missing or does not cover the model.
        SpecError: the model is not an ONNX model, it needs a newer onnxruntime, or ``device`` or ``optimize`` is none of those
            above.
        onnxruntime's own errors: it refuses the model.
    """
    installation.check()
    import onnxruntime

    if device not in ("auto", "cpu", "cuda"):
        raise SpecError(f"device is {device!r}; expected 'auto', 'cpu' or 'cuda'")
    if optimize not in ("layout", "none"):
        raise SpecError(f"optimize is {optimize!r}; expected 'layout' or 'none'")
    source = Path(model) if isinstance(model, (str, Path)) else model
    contents = models.read(source)
    _check_version(onnxruntime.__version__, contents)
    options = session_options if session_options is not None else onnxruntime.SessionOptions()
    _keep_record(options)
    registered, reason = _register(options, contents, library)
    providers = _providers(device, provider_options, registered)
    data = str(source) if isinstance(source, Path) else source if isinstance(source, bytes) else source.SerializeToString()
    session = None
    if optimize == "layout" and registered is not None and providers == [CPU]:
        session = _blocked(source if isinstance(source, Path) else data, contents, options, registered)
    if session is None:
        session = _open(data, options, providers, registered)
    _check_device(session, device)
    _say(assignments(session), bool(contents.nodes), session, reason)
    return session


def _check_version(version: str, contents: models.Contents) -> None:
    """onnxruntime before 1.27 takes one body for all functions of a name: its results would be wrong, without a word."""
    numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if contents.overloads and numbers < [1, 27]:
        raise SpecError(
            f"this model holds several kinds of activations as functions told apart by `overload`, which onnxruntime {version} "
            "ignores: its results would be wrong. Install onnxruntime 1.27 or newer"
        )


def _keep_record(options: Any) -> None:
    try:
        kept = options.get_session_config_entry(RECORD) == "1"
    except RuntimeError:  # not set
        kept = False
    if not kept:
        options.add_session_config_entry(RECORD, "1")


def _register(options: Any, contents: models.Contents, library: Any) -> tuple[str | None, str | None]:
    """(path of the library that is registered on the options now, why it is not where that was not said yet)."""
    if library is False:
        return None, "library=False"
    reason = contents.uncovered()
    path: str | None = None
    if reason is None:
        try:
            path = get_library_path() if library in ("auto", True) else str(Path(library).resolve(strict=True))
        except LibraryError as error:
            reason = str(error)
            if library == "auto":
                if contents.nodes:
                    say_missing(reason)
                return None, None
        except OSError:
            raise LibraryError(f"there is no library at {library}; name the file, or leave `library` out") from None
    if path is None:
        if library != "auto":
            raise LibraryError(f"the op library cannot be used: {reason}")
        return None, reason
    if options not in _registered_on:
        try:
            options.register_custom_ops_library(path)
        except Exception as error:
            raise LibraryError(f"onnxruntime cannot load the op library {path}: {error}") from None
        _registered_on.add(options)
    return path, None


def _providers(device: Device, provider_options: dict[str, Any] | None, registered: str | None) -> list[Any]:
    import onnxruntime

    if device == "cpu":
        return [CPU]
    reason = None
    if CUDA not in onnxruntime.get_available_providers():
        reason = f"this onnxruntime ({onnxruntime.__version__}) has no {CUDA}; " + (
            installation.problem() or "install onnxruntime-gpu in place of onnxruntime: they must not stand side by side"
        )
    elif not _has_driver():
        reason = "this machine has no NVIDIA driver (libcuda), so no CUDA device"
    elif registered is not None and not build_info().get("cuda"):
        # Registered for the CPU only, every activation would run there and its tensors travel to and fro.
        cause = build_info().get("cuda_reason")
        reason = f"the op library was built without CUDA ({cause}); build it with nvcc, or pass library=False"
    if reason is None:
        return [(CUDA, provider_options or {}), CPU]
    if device == "cuda":
        raise DeviceError(f"device='cuda' was asked for, but {reason}")
    logger.info("no CUDA: %s", reason)
    return [CPU]


def _has_driver() -> bool:
    import ctypes
    import sys

    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _open(data: str | bytes, options: Any, providers: list[Any], registered: str | None) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        if registered is not None and _REGISTERED_TWICE in str(error):
            raise LibraryError(
                "the op library was registered on these session options before; pass library=False to leave them as they are, "
                "or options on which it is not registered"
            ) from error
        raise


def _blocked(source: Any, contents: models.Contents, options: Any, registered: str) -> Any:
    if contents.external:
        logger.info("activations stay outside onnxruntime's blocked layout: the model keeps weights in other files")
        return None
    content = source.read_bytes() if isinstance(source, Path) else source
    return blocked_session(content, options, [CPU], registered)


def _check_device(session: Any, device: Device) -> None:
    """onnxruntime falls back to the CPU silently where a provider cannot load."""
    if device == "cuda" and CUDA not in session.get_providers():
        raise DeviceError(
            f"device='cuda' was asked for, but onnxruntime could not load {CUDA} and fell back to "
            f"{', '.join(session.get_providers())}; it logs the reason: CUDA and cuDNN must be those it was built for. "
            "Where pip installed them, onnxruntime finds them after onnxruntime.preload_dlls()"
        )


def _say(found: list[Assignment], expected: bool, session: Any, reason: str | None) -> None:
    if not expected:
        logger.info("the model has no learned activation; providers: %s", ", ".join(session.get_providers()))
        return
    for assignment in found:
        logger.info("%s", assignment)
    if reason is not None and reason != "library=False":
        logger.warning("the learned activations run as function bodies, which is slow: %s", reason)
