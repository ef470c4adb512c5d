"""Sessions on a model that onnxruntime optimized for this machine and :mod:`opau_onnx.runtime.layout` rewrote, kept in a cache.

The rewritten file fits one processor, one version of onnxruntime, one op library and the session options that shape it: the
cache's key holds them all (:mod:`opau_onnx.runtime.layout_cache`). It is used only once its outputs were found to be bit for
bit those of the session without it.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opau_onnx.io.atomic import replacing
from opau_onnx.runtime import layout_cache

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger("opau_onnx")
LARGEST = 2**30
"""Bytes of a model beyond which nothing is rewritten: the cache would hold a second copy."""
SIZES = (1, 3)
"""Of open axes, in the runs that prove the rewritten model."""
NOTHING = b"nothing: "
"""How the cache begins, before the reason, for a model that is not rewritten; no ONNX file begins so."""


def cache_folder() -> Path:
    """Where rewritten models are kept: OPAU_CACHE, or opau_onnx in the user's cache folder."""
    given = os.environ.get("OPAU_CACHE")
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "opau_onnx"


def blocked_session(
    model: bytes, options: onnxruntime.SessionOptions, providers: list[Any], library: str
) -> onnxruntime.InferenceSession | None:
    """A session that runs activations inside the blocked layout; None where that does not apply, and the log says why.

    Args:
        model: the whole file.
        options: the user's, with the library registered; they come back as they were.
        providers: of the session.
        library: path of the op library.
    """
    reason = _unsuitable(model, options)
    if reason is None:
        try:
            path = cache_folder() / "layout" / layout_cache.key(model, library, options)
            return _kept_session(path, options, providers) or _made_session(path, model, options, providers)
        except (_NotApplicableError, layout_cache.UnknownOptionsError) as error:
            reason = str(error)
        except Exception as error:  # of onnxruntime or the file system: the plain session is always there
            reason = f"{type(error).__name__}: {error}"
    logger.info("activations stay outside onnxruntime's blocked layout: %s", reason)
    return None


class _NotApplicableError(Exception):
    """The message says why."""


def _kept_session(path: Path, options: Any, providers: list[Any]) -> Any:
    """From the cache; None where it holds nothing that can be used."""
    try:
        content = layout_cache.verified(path.name, path.read_bytes())
    except OSError:
        return None
    if content is None:
        logger.warning("%s is damaged and made again: its contents are not what was written", path)
        return None
    if content.startswith(NOTHING):
        raise _NotApplicableError(content.removeprefix(NOTHING).decode())
    try:
        return _open(content, options, providers)
    except Exception as error:
        logger.warning("%s is damaged and made again: %s", path, error)
        return None


def _made_session(path: Path, model: bytes, options: Any, providers: list[Any]) -> Any:
    try:
        session, content = _make(model, options, providers)
    except _NotApplicableError as reason:
        _keep(path, NOTHING + str(reason).encode())
        raise
    _keep(path, content)
    return session


def _keep(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(layout_cache.signed(path.name, content))
    except OSError as error:
        logger.info("the model for this machine is not kept: %s", error)


def _open(content: bytes, options: Any, providers: list[Any]) -> Any:
    import onnxruntime

    with _changed(options, graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL):
        return onnxruntime.InferenceSession(content, options, providers=providers)


def _unsuitable(model: bytes, options: Any) -> str | None:
    import onnxruntime

    if len(model) > LARGEST:
        return "the model is larger than 1 GB"
    if options.graph_optimization_level != onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL:
        return "the session options do not ask for all optimizations"
    return "the session options ask for the optimized model's file" if options.optimized_model_filepath else None


@contextmanager
def _changed(options: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(options, name) for name in values}
    for name, value in values.items():
        setattr(options, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(options, name, value)


@cache
def block_size(own_threads: bool = True) -> int:
    """How many channels onnxruntime's blocked layout puts side by side here, found by trying; 0 where it has none.

    Args:
        own_threads: as the sessions of this process must be: False where they share a pool (use_per_session_threads).
    """
    import onnx
    import onnxruntime
    from onnx import helper

    from opau_onnx.runtime.layout import NCHWC

    channels, kind = 64, onnx.TensorProto.FLOAT
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=NCHWC)
    ends = [helper.make_tensor_value_info(name, kind, [1, channels, 1, 2]) for name in "xy"]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(NCHWC, 1)]
    model = helper.make_model(helper.make_graph([node], "probe", ends[:1], ends[1:]), opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_per_session_threads = own_threads
    x = np.arange(channels * 2, dtype=np.float32).reshape(1, channels, 1, 2)  # the second pixel's values are the odd ones
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        flat = session.run(None, {"x": x})[0].ravel()
    except Exception:  # this build has no such operator
        return 0
    return int(np.flatnonzero(flat % 2)[0])


def _make(model: bytes, options: Any, providers: list[Any]) -> tuple[Any, bytes]:
    """The session of the rewritten model, and the model.

    Raises:
        _NotApplicableError: none of its activations is between reorders, or equality cannot be shown.
    """
    import onnx
    import onnxruntime

    from opau_onnx.runtime.layout import rewrite

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        # It warns that the file is not portable.
        with _changed(options, optimized_model_filepath=str(path), log_severity_level=3):
            plain = onnxruntime.InferenceSession(model, options, providers=providers)
        optimized = onnx.load(path)
    found = rewrite(optimized, block_size(options.use_per_session_threads))
    for name, reason in found.kept.items():
        logger.info("%s stays outside onnxruntime's blocked layout: %s", name, reason)
    if not found.removed:
        raise _NotApplicableError("none of them can run inside it")
    content: bytes = optimized.SerializeToString()
    blocked = _open(content, options, providers)
    _prove(plain, blocked)
    logger.info("%d activations run inside onnxruntime's blocked layout, with the same bits", len(found.removed))
    return blocked, content


def _prove(plain: Any, blocked: Any) -> None:
    unknown = [f"{v.name} of type {v.type}" for v in plain.get_inputs() if v.type not in _NUMPY]
    if unknown:
        raise _NotApplicableError(f"equality cannot be shown with inputs that are no numbers: {', '.join(unknown)}")
    for size in SIZES:
        feed = _inputs(plain, size)
        if not all(_same(a, b) for a, b in zip(plain.run(None, feed), blocked.run(None, feed), strict=True)):
            logger.warning("the model in onnxruntime's blocked layout gave other results and is not used; please report this")
            raise _NotApplicableError("the results would differ")


def _same(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


_NUMPY: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32,
}  # fmt: skip


def _inputs(session: Any, size: int) -> dict[str, Any]:
    """Random inputs with open axes of this size; whole numbers are 0 or 1."""
    rng = np.random.default_rng(size)
    feed = {}
    for value in session.get_inputs():
        shape, kind = [n if isinstance(n, int) else size for n in value.shape], _NUMPY[value.type]
        drawn = rng.standard_normal(shape) if np.issubdtype(kind, np.floating) else rng.integers(0, 2, shape)
        feed[value.name] = np.asarray(drawn, dtype=kind)
    return feed
