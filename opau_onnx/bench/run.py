"""One run of the benchmark: everything that is compared is measured in the same process, in turns."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from opau_onnx.bench import figures, machine, networks, sessions, subjects, threads
from opau_onnx.bench.names import NETWORKS, SUBJECTS
from opau_onnx.bench.timing import Plan, measure
from opau_onnx.core.spec import Config
from opau_onnx.errors import BenchError

SCHEMA = "opau_onnx.bench/1"


@dataclass(frozen=True)
class Settings:
    """Measurement settings; the defaults are those of ``opau-bench``.

    Attributes:
        config: the activation, with coefficients shared by the tensor.
        sizes: numbers of elements.
        dtypes, subjects: names of :mod:`opau_onnx.bench.names`.
        batches: of the whole models; none leaves them out.
        threads: for onnxruntime and PyTorch each; None is the number of physical cores.
        device: "auto", "cpu" or "cuda"; "auto" is a GPU where onnxruntime can use one.
        plan: how times are taken.
        command: as it was typed, for the report.
    """

    config: Config = field(default_factory=Config)
    sizes: tuple[int, ...] = tuple(2**n for n in range(10, 25, 2))
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16", "float64")
    subjects: tuple[str, ...] = tuple(SUBJECTS)
    batches: tuple[int, ...] = (1, 32, 256)
    threads: int | None = None
    device: str = "auto"
    plan: Plan = field(default_factory=Plan)
    command: str = "opau-bench"


def run(settings: Settings, progress: Callable[[str], None] = lambda step: None) -> dict[str, Any]:
    """Measure, and return everything as plain data.

    Raises:
        BenchError: a device or number of threads that cannot be had.
    """
    others = machine.Others()
    count = settings.threads or threads.physical_cores()
    threads.share(count)  # before any session, those that only ask for a device too
    device = _device(settings.device)
    torch.set_num_threads(count)
    cases: list[figures.Case] = []
    missing: list[dict[str, str]] = []
    for dtype in settings.dtypes:
        found, reasons = _dtype(settings, dtype, device, progress)
        cases += found
        missing += [{"subject": key, "dtype": dtype, "reason": reason} for key, reason in reasons.items()]
    nets: list[figures.Case] = []
    if settings.batches:
        nets, absent = networks.run(list(settings.batches), device, settings.plan, progress)
        missing += absent
    return {
        "schema": SCHEMA,
        "command": settings.command,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {**machine.describe(), "cores_used_by_others": others.cores()},
        "settings": {"device": device, "threads": count, **asdict(settings.plan)},
        "activation": {"basis": settings.config.basis, "form": settings.config.form, "degrees": list(settings.config.degrees)},
        "labels": {key: SUBJECTS[key].label for key in settings.subjects},
        "network_labels": NETWORKS,
        "cases": cases,
        "networks": nets,
        "per_byte_over_float32": figures.per_byte(cases),
        "goals": figures.goals(cases, nets) if settings.config == Config() else [],
        "not_measured": missing,
    }


def _device(name: str) -> str:
    if name == "cpu" or (name == "auto" and not (torch.cuda.is_available() and sessions.has_cuda())):
        return "cpu"
    if not sessions.has_cuda():
        raise BenchError("the device is cuda, but onnxruntime cannot use a GPU here; --device cpu measures on the CPU")
    return "cuda"


def _dtype(
    settings: Settings, dtype: str, device: str, progress: Callable[[str], None]
) -> tuple[list[figures.Case], dict[str, str]]:
    """The cases of one dtype, and the reasons for subjects that it does not have. Its sessions and memory end with it."""
    progress(f"{dtype}: preparing")
    task = subjects.Task.create(settings.config, dtype, device, max(settings.sizes))
    makers, reasons = subjects.make(task, settings.subjects)
    cases = []
    for elements in settings.sizes:
        progress(f"{dtype}, {elements:,} elements")
        taking = [maker(elements) for maker in makers.values()]
        times = measure(taking, settings.plan)
        results: dict[str, Any] = {}
        for subject in taking:
            result = figures.summary(times[subject.key])
            figures.bandwidth(result, elements, dtype)
            results[subject.key] = {**result, "implementation": subject.implementation}
        moved = 2 * elements * figures.ITEMSIZE[dtype]
        ratios = figures.ratios(results)
        cases.append({"dtype": dtype, "elements": elements, "bytes_moved": moved, "results": results, "ratios": ratios})
    return cases, reasons
