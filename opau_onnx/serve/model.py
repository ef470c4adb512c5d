"""One loaded model: its sessions, its queue, and what it says of itself."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

from opau_onnx.errors import LoadError
from opau_onnx.protocol.classification import top_classes
from opau_onnx.protocol.errors import InvalidRequestError
from opau_onnx.protocol.tensors import BYTES, Array, TensorSpec, check_inputs
from opau_onnx.serve import independence, sizes, warmup
from opau_onnx.serve.batch_profile import BatchProfile
from opau_onnx.serve.batches import Runner
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.queueing import Batcher
from opau_onnx.serve.sessions import Opened, open_model, runners
from opau_onnx.serve.statistics import Statistics

logger = logging.getLogger("opau_onnx.serve")
PLATFORM = "onnxruntime_onnx"
"""Triton's name for ONNX files on onnxruntime, which clients know."""


@dataclass(frozen=True)
class Prepared:
    """A model that can serve; made in a thread, since it takes seconds.

    Attributes:
        buckets: row counts that were warmed up.
        alone: why each request runs alone; "" where they are batched.
        seconds: of a run by its rows, measured in the warm-up; empty without one.
        warning: sizes that the file declares and cannot run; "" where none was found.
    """

    settings: ModelSettings
    opened: Opened
    runners: tuple[Runner, ...]
    max_batch_size: int
    buckets: tuple[int, ...]
    alone: str
    seconds: dict[int, float]
    warning: str

    @property
    def profile(self) -> BatchProfile:
        """What batches cost."""
        return BatchProfile(self.seconds, padded=self.settings.cuda_graph)


def prepare(name: str, settings: ModelSettings, stop: threading.Event | None = None) -> Prepared:
    """Open a model, find out whether it may be batched, and run every bucket once on every session.

    Args:
        name: of the model, for logs.
        settings: of the model.
        stop: once it is set, no further batch is run.

    Raises:
        LoadError: it cannot be read, run or batched as asked, or was stopped.
        OpauError: what :func:`opau_onnx.create_session` raises.
    """
    opened = open_model(settings)
    largest, alone = warmup.batch_size(settings, opened)
    buckets = warmup.buckets(settings, largest)
    found = tuple(runners(settings, opened, buckets))
    row = warmup.shapes(settings, opened.inputs)
    if largest and settings.batch_check:
        alone = _dependence(settings, found[0], opened, row, largest)
    if alone:
        largest, buckets = 0, ()
    seconds: dict[int, float] = {}
    if row is None:
        logger.warning("model is not warmed up: axes are open; give input_shapes", extra={"fields": {"model": name}})
    else:
        try:
            seconds = warmup.warm(found, opened.inputs, row, buckets, stop)
        except LoadError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise LoadError(f"{settings.path} cannot be run on inputs of its own shapes {row}: {error}") from None
    warning = _sizes(name, settings, found[0], opened, row, stop)
    if alone:
        logger.info("each request runs alone: %s", alone, extra={"fields": {"model": name}})
    return Prepared(settings, opened, found, largest, buckets, alone, seconds, warning)


def _sizes(
    name: str,
    settings: ModelSettings,
    runner: Runner,
    opened: Opened,
    row: dict[str, tuple[int, ...]] | None,
    stop: threading.Event | None,
) -> str:
    """Sizes that the file declares and cannot run, told in the log; "" where none was found."""
    axes = sizes.open_axes(opened.sessions[0])
    if not any(axes.values()) or settings.cuda_graph:
        return ""
    if row is None:
        candidates = [independence.sized(opened.inputs, size) for size in independence.OPEN_SIZES]
        row = sizes.first_that_runs(runner, opened.inputs, candidates)
    if row is None:
        warning = f"axes are open, and the model does not run with them at {independence.OPEN_SIZES}; give input_shapes"
    else:
        warning = sizes.try_sizes(runner, opened.inputs, axes, row, stop).warning
    if warning:
        logger.warning("%s", warning, extra={"fields": {"model": name}})
    return warning


def _dependence(
    settings: ModelSettings, runner: Runner, opened: Opened, row: dict[str, tuple[int, ...]] | None, largest: int
) -> str:
    """Why the model must not be batched; "" where it may be.

    Raises:
        LoadError: it must not, and was asked for.
    """
    reason = independence.dependence(runner, opened, row, largest)
    if reason is not None and settings.cuda_graph:  # it pads, so others' rows are always there
        raise LoadError(f"cuda_graph was asked for, but {reason}; leave it out")
    if reason is not None and settings.max_batch_size is not None:
        raise LoadError(f"max_batch_size is {largest}, but {reason}; set it to 0, or batch_check to false where that is meant")
    return reason or ""


class ServedModel:
    """A prepared model with its queue. To be made in the event loop's thread.

    Attributes:
        name, version: in the protocol.
        statistics: shared by all that is loaded under this name.
        batcher: its queue.
        about: what its description tells besides: on which of several servers it is.
    """

    def __init__(self, name: str, prepared: Prepared, statistics: Statistics) -> None:
        self.name, self.version, self.prepared = name, prepared.settings.version, prepared
        self.inputs, self.outputs = prepared.opened.inputs, prepared.opened.outputs
        self.statistics = statistics
        self.about: dict[str, str] = {}
        self.batcher = Batcher(
            prepared.runners,
            max_batch_size=prepared.max_batch_size,
            max_delay_us=prepared.settings.max_batch_delay_us,
            max_queue=prepared.settings.max_queue,
            statistics=statistics,
            loop=asyncio.get_running_loop(),
            profile=prepared.profile,
        )
        self._output_names = {spec.name for spec in self.outputs}

    def check(self, inputs: dict[str, Array], outputs: list[str] | None) -> None:
        """Check a request's inputs.

        Raises:
            InvalidRequestError: it does not; the message names what is expected.
        """
        check_inputs(inputs, self.inputs)
        if self.prepared.max_batch_size:
            rows = {name: len(array) for name, array in inputs.items()}
            if len(set(rows.values())) > 1:
                raise InvalidRequestError(f"the inputs have different numbers of rows: {rows}")
            if 0 in rows.values():
                raise InvalidRequestError("the inputs have no rows; expected at least 1")
        for name in outputs or ():
            if name not in self._output_names:
                raise InvalidRequestError(f"the model has no output {name!r}; it has {', '.join(map(str, self.outputs))}")

    def outputs_of(self, names: list[str] | None) -> tuple[TensorSpec, ...]:
        """Those that were asked for, in that order; all where none were."""
        if not names:
            return self.outputs
        known = {spec.name: spec for spec in self.outputs}
        return tuple(known[name] for name in names)

    def classified(
        self, specs: tuple[TensorSpec, ...], classes: dict[str, int], arrays: dict[str, Array]
    ) -> tuple[tuple[TensorSpec, ...], dict[str, Array]]:
        """Outputs and their arrays, with so many classes in place of those that are named."""
        found = dict(arrays)
        for name, count in classes.items():
            batched = self.prepared.opened.symbols[name] is not None
            found[name] = top_classes(arrays[name], count, batched=batched)
        return tuple(TensorSpec(s.name, BYTES, found[s.name].shape) if s.name in classes else s for s in specs), found

    def describe(self) -> dict[str, Any]:
        """Provider, device and implementation, for metadata and logs."""
        opened, prepared = self.prepared.opened, self.prepared
        found: dict[str, Any] = {
            "provider": opened.provider,
            "implementation": opened.implementation,
            "max_batch_size": prepared.max_batch_size,
            "preferred_batch_size": self.batcher.full_rows,
            "max_batch_delay_us": prepared.settings.max_batch_delay_us,
            "instances": len(prepared.runners),
            "threads": prepared.settings.threads,
            "cuda_graph": prepared.settings.cuda_graph,
            "sha256": opened.sha256,
        }
        if prepared.alone:
            found["unbatched_because"] = prepared.alone
        if prepared.warning:
            found["warning"] = prepared.warning
        return found | self.about

    async def retire(self) -> None:
        """Answer what was accepted, then let the sessions go."""
        await self.batcher.drain()
        self.batcher.close()
