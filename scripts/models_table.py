"""Every architecture with HP-1 and HP-2 through the whole toolkit; writes docs/benchmarks/models.{json,md}.

Each model is exported, collapsed in every form, verified at batch 1 and 32 with kernel and function body, certified, and timed
against the same network with ReLU. Weights are random and seeded, unless a checkpoint is named: He's initialisation,
coefficients nudged so that no two activations of a network are the same function (a mix-up would be seen), statistics of the
batch norms from random images. Exit codes: 0 all equal, 1 something is not (the tables are written and say what), 2 an error.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from models_report import TIMED, TOLERANCE, Part, cell, markdown
from models_subjects import Model, random_model, trained_model

from opau_onnx import QuantizationConfig, ValidationConfig, collapse_model, export_model, models, verify_model
from opau_onnx.bench import machine, threads
from opau_onnx.bench.figures import summary
from opau_onnx.bench.sessions import Memory, Session, described
from opau_onnx.bench.timing import Plan, Subject, measure
from opau_onnx.certify import activations
from opau_onnx.certify.certificate import certify
from opau_onnx.certify.sweep import SWEPT
from opau_onnx.cli.common import DIFFERENT, console, fail
from opau_onnx.collapse.passes.lookup import Untabled
from opau_onnx.collapse.result import CollapseResult
from opau_onnx.core.spec import OP_TYPES
from opau_onnx.errors import CollapseError, OpauError
from opau_onnx.io.atomic import replacing
from opau_onnx.models.activations import create_activation
from opau_onnx.runtime.processor import saturates_8_bit

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
BATCHES = {1: 4, 32: 32}
"""Batch in which the files are verified -> images."""
RUNTIMES = ("ort-function", "ort-kernel")
FLOAT = 1
"""TensorProto.FLOAT."""


@dataclass(frozen=True)
class Settings:
    """Settings from the command line that change the result."""

    seed: int
    samples: int
    complete: int
    batch: int
    rounds: int


def exported(model: Model, folder: Path) -> Part:
    result = export_model(model.source, folder / "learned.onnx")
    assert result.validation is not None
    model.files["learned"] = result.path
    model.files["ReLU"] = export_model(model.relu, folder / "relu.onnx", model.source.inputs, validate=False).path
    used = max(c.tolerance_used for c in result.validation.outputs)
    return {"equal": result.equal, "activations": len(result.activations), "tolerance_used": used}


def forms(model: Model) -> dict[str, tuple[str, dict[str, Any], Callable[[CollapseResult], str]]]:
    """Name in the tables -> form, options, what is told of the result."""
    return {
        "standard": ("standard", {}, lambda r: f"{r.after.nodes if r.after else 0} operators"),
        "within": ("standard", {"tolerance": TOLERANCE, "data": model.data}, _approximated),
        "fused": ("fused", {}, lambda r: f"{sum(bool(a.absorbed) for a in r.replaced)} norms absorbed"),
        # Where 8-bit products saturate, the default would be judged by what this processor makes of it.
        "lut": ("lut", {"quantizing": QuantizationConfig(reduce_range=saturates_8_bit()), "data": model.data}, _tables),
    }


def _approximated(result: CollapseResult) -> str:
    changed = sum(bool(a.approximation and a.approximation.chosen) for a in result.replaced)
    return f"{changed} of {len(result.replaced)} simpler, {sum(a.differing for a in result.agreements.values())} classes differ"


def _tables(result: CollapseResult) -> str:
    tables = sum(not isinstance(a.scheme, Untabled) for a in result.replaced)
    agreement = min((d.agreement for d in getattr(result.validation, "drift", ())), default=float("nan"))
    return f"{tables} of {len(result.replaced)} tables, {agreement:.0%} of the classes"


def collapsed(model: Model, name: str) -> Part:
    """One form, compared with PyTorch. Classes of random weights are nearly ties: quantization may change any of them."""
    form, options, tell = forms(model)[name]
    source = model.files["learned"]
    comparing = ValidationConfig(reference=model.source, min_agreement=0.0 if model.random else ValidationConfig.min_agreement)
    result = collapse_model(source, source.with_name(f"{name}.onnx"), form, comparing=comparing, **options)
    model.files[name] = result.path
    return {"equal": result.equal, "told": tell(result)}


def verified(model: Model, batch: int) -> Part:
    """The exported file, its standard and its fused form, run in that batch by kernel and function."""
    files = [model.files[name] for name in ("learned", "standard", "fused") if name in model.files]
    data, limit = model.data.source, BATCHES[batch]
    found = verify_model(model.source, files, data=data, runtimes=RUNTIMES, batch=batch, limit=limit)
    runs: list[Part] = [
        {"file": f.file.path.stem, "runtime": run.name, "equal": run.equal(None), "samples": run.samples,
         "tolerance_used": max(o.worst.tolerance_used for o in run.outputs if o.worst),
         "max_abs_error": max(o.worst.max_abs_error for o in run.outputs if o.worst)}
        for f in found.files for run in f.file.runs if not run.reason
    ]  # fmt: skip
    complete = found.complete and {r["runtime"] for r in runs} == set(RUNTIMES)
    used = max(r["tolerance_used"] for r in runs)
    return {
        "equal": found.equal and complete, "tolerance_used": used, "findings": [str(f) for f in found.findings], "runs": runs,
    }  # fmt: skip


def certified(model: Model, complete: int) -> Part:
    """The file's functions: the first ones on every input, the others on a sample of float32's and every 16-bit one."""
    judged = [
        certify(function, tuple(SWEPT), threads=threads.physical_cores(), quick=number >= complete)
        for number, function in enumerate(activations.read(model.files["learned"]))
    ]
    sweeps = [s for j in judged for s in j.sweeps if s.dtype == "float32"]
    return {
        "equal": all(j.passed for j in judged), "functions": len(judged), "complete": sum(s.complete for s in sweeps),
        "ulp": max((s.worst_conditioned.ulp for s in sweeps if s.worst_conditioned), default=float("nan")),
        "reasons": [reason for j in judged for reason in j.reasons],
    }  # fmt: skip


def examine(model: Model, folder: Path, complete: int, say: Callable[[str], None]) -> None:
    """All but the times."""
    steps: dict[str, Callable[[], Part]] = {"exported": lambda: exported(model, folder)}
    steps |= {name: lambda name=name: collapsed(model, name) for name in forms(model)}  # type: ignore[misc]
    steps |= {f"batch {batch}": lambda batch=batch: verified(model, batch) for batch in BATCHES}  # type: ignore[misc]
    steps["certified"] = lambda: certified(model, complete)
    for name, step in steps.items():
        started = time.perf_counter()
        found = attempted(step) if name == "exported" or "learned" in model.files else {"equal": False, "told": "not exported"}
        model.found[name] = {**found, "seconds": round(time.perf_counter() - started, 1)}
        say(f"{model.name}: {name}: {cell(name, found)} ({model.found[name]['seconds']} s)")


def attempted(step: Callable[[], Part]) -> Part:
    """Result of a step, or the reason for its failure: one failure does not cost the hour that the others take."""
    try:
        return step()
    except CollapseError as error:
        return {"equal": None, "told": str(error)}
    except OpauError as error:
        return {"equal": False, "told": str(error)}


def right(model: Model) -> bool:
    """True where everything is equal. That the quantized form does not fit a model is no fault."""
    return all(part["equal"] or (name == "lut" and part["equal"] is None) for name, part in model.found.items())


def timed(group: Sequence[Model], library: str, settings: Settings) -> dict[str, Part]:
    """The models of one kind take turns with ReLU's: model -> subject -> figures."""
    x = torch.randn(settings.batch, *group[0].kind[1])
    with torch.no_grad():
        y = torch.zeros_like(group[0].relu(x))
    one, two = (Memory(t.data_ptr(), tuple(t.shape), FLOAT, t) for t in (x, y))
    sessions = {("", "ReLU"): Session(str(group[0].files["ReLU"]), "cpu")}
    for model in group:
        for name, (file, layout) in TIMED.items():
            session = Session(str(model.files[file]), "cpu", library, optimize=layout)
            if not any(op in OP_TYPES for _, op in session.nodes()):
                fail(f"{model.name}, {name}: the kernel does not run: {described(session.nodes())}")
            sessions[model.name, name] = session
    subjects = [
        Subject("/".join(key), key[1], described(s.nodes()), "onnxruntime", s.prepare(one, two)) for key, s in sessions.items()
    ]
    plan = Plan(rounds=settings.rounds, subject_seconds=6.0)
    results = {key: summary(taken) for key, taken in measure(subjects, plan).items()}
    base = results["/ReLU"]
    for result in results.values():
        result |= {"ratio": result["median_s"] / base["median_s"], "ratio_of_fastest": result["min_s"] / base["min_s"]}
    return {m.name: {"ReLU": base, **{name: results[f"{m.name}/{name}"] for name in TIMED}} for m in group}


def run(
    found: Sequence[Model], folder: Path, settings: Settings, time_them: bool, say: Callable[[str], None]
) -> tuple[Part, bool]:
    """The report, and whether everything is equal. Sessions that are timed come last: they share one pool of threads."""
    for model in found:
        own = folder / model.name.replace(" ", "_")
        own.mkdir()
        examine(model, own, settings.complete, say)
    times: dict[str, Part] = {}
    others = machine.Others()
    if time_them:
        library, reason = machine.library()
        if library is None:
            fail(f"the compiled library is needed: {reason}")
        threads.share(threads.physical_cores())
        for kind in dict.fromkeys(m.kind for m in found):
            group = [m for m in found if m.kind == kind and {"ReLU", "learned", "fused"} <= m.files.keys()]
            times |= timed(group, library, settings) if group else {}
    report = {
        "command": shlex.join(["python", "scripts/models_table.py", *sys.argv[1:]]), "date": datetime.date.today().isoformat(),
        "machine": machine.describe(), "settings": asdict(settings), "others": others.cores(), "times": times,
        "models": [{"name": m.name, "weights": m.weights, "found": m.found} for m in found],
    }  # fmt: skip
    return report, all(right(m) for m in found)


def main(
    model: Annotated[list[str] | None, typer.Option(help="Architecture, several times for several [all].")] = None,
    activation: Annotated[list[str] | None, typer.Option(help="Learned activation, likewise [hp1, hp2].")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Trained weights; they take the place of their architecture's random ones.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Inputs of the checkpoints, as opau-collapse takes them [random].")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and images.")] = 0,
    samples: Annotated[int, typer.Option(min=64, help="Random images.")] = 256,
    complete: Annotated[int, typer.Option(min=0, help="Functions of each model that are tried on all 2^32 inputs.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Of the times.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each subject.")] = 21,
    times: Annotated[bool, typer.Option(help="Take times, on a quiet machine.")] = True,
    output_dir: Annotated[Path, typer.Option(help="Where models.json and models.md go.")] = FOLDER,
) -> None:
    """Take every architecture with HP-1 and HP-2 through export, all forms of collapse, verification, certificate, timing."""
    settings, out = Settings(seed, samples, complete, batch, rounds), console()
    if not output_dir.is_dir():
        fail(f"--output-dir {output_dir} is no folder")
    try:
        with tempfile.TemporaryDirectory(prefix="opau_models_") as temporary_folder:
            folder = Path(temporary_folder)
            os.environ["OPAU_CACHE"] = str(folder / "cache")  # nothing that an older code decided
            chosen = [trained_model(path, folder, seed, samples, data) for path in checkpoint or ()]
            known = {m.name for m in chosen}
            for network in model or models.ARCHITECTURES:
                for name in activation or ("hp1", "hp2"):
                    create_activation(name)
                    if f"{network} {name}" not in known:
                        chosen.append(random_model(network, name, folder, seed, samples))
            report, equal = run(chosen, folder, settings, times, lambda line: out.print(line, highlight=False, markup=False))
    except (OpauError, OSError) as error:
        fail(str(error))
    for suffix, text in (("json", json.dumps(report, indent=1) + "\n"), ("md", markdown(report))):
        with replacing(output_dir / f"models.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    raise typer.Exit(0 if equal else DIFFERENT)


if __name__ == "__main__":
    typer.run(main)
