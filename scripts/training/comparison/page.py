"""The results as a page: a table, conclusions, and the paper's figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from opau_onnx.io.atomic import replacing
from training.comparison import paper
from training.comparison.conclusions import conclusions, difference, name, plus_minus
from training.comparison.figures import BASE, LEVEL, Summary, summaries
from training.comparison.store import Store

EXTRAS = {
    "gradient_norm": "Norm of the gradient", "coefficients": "Coefficients of activations", "precision": "Precision",
}  # fmt: skip
"""Parts of a recipe that not every one has."""
Table = Sequence[Sequence[str]]


def write(store: Store, path: Path, picture: str) -> None:
    """Write the page; ``picture`` is the name of the PNG beside it."""
    found = summaries(store.runs)
    parts = [
        "# Comparison of activations",
        _about(store, found),
        _table(_rows(store, found)),
        _legend(store, found),
        f"![test accuracy, training time and inference time of each activation]({picture})",
        "## Conclusions",
        *conclusions(found, store.inference.get("results", {})),
        "## Results of the paper",
        *_paper(),
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def _about(store: Store, found: Sequence[Summary]) -> str:
    budget, machine = store.budget, store.machine
    data, recipe = store.settings["data"], store.settings["recipe"]
    seeds = ", ".join(map(str, sorted({r["seed"] for r in store.runs})))
    processor = machine["gpu" if recipe.get("device") == "cuda" else "cpu"]
    lines = [
        f"`{store.command}`, {machine['date']}: {store.settings['architecture']} on {data['name']} "
        f"({data['training_images']:,} training images, {data['test_images']:,} test images), {len(found)} activations, "
        f"seeds {seeds}, {budget['epochs']} epochs each.",
        f"{_sentence(recipe['optimizer'])} Learning rate {recipe['lr']:g}; {_sentence(recipe['schedule'], start=False)} "
        f"Batches of {recipe['batch_size']}. {_sentence(recipe['loss'])} Augmentation: {recipe['augmentation']}."
        + "".join(f" {text}: {recipe[key]}." for key, text in EXTRAS.items() if key in recipe),
        "Accuracy is measured once, with the weights after the last epoch; no checkpoint is selected.",
        f"{processor}, {machine['jobs']} runs in parallel with {recipe['threads']} thread each, PyTorch {machine['torch']}, "
        f"onnxruntime {machine['onnxruntime']}.",
    ]
    if budget["minutes"] is not None:
        lines[0] += (
            f" The number of epochs was chosen to fit into {budget['minutes']:g} minutes, from a timing run; it is the "
            "same for all."
        )
    return "\n".join(lines)


def _sentence(text: str, *, start: bool = True) -> str:
    return f"{text[:1].upper() if start else text[:1]}{text[1:]}."


def _rows(store: Store, found: Sequence[Summary]) -> Table:
    head = [
        "activation", "test accuracy, %", "difference from ReLU, points", "significant?", "parameters", "s per epoch",
        "inference, ms", "relative to ReLU",
    ]  # fmt: skip
    times = {key: 1e3 * r["median_s"] for key, r in store.inference.get("results", {}).items()}
    rows = [[
        name(s), plus_minus(s.mean, s.deviation), difference(s.difference),
        "" if s.difference is None else s.difference.verdict, f"{s.parameters:,}", f"{s.epoch_seconds:.1f}",
        f"{times[s.activation]:.2f}" if s.activation in times else "",
        f"{times[s.activation] / times[BASE]:.2f}" if s.activation in times and BASE in times else "",
    ] for s in found]  # fmt: skip
    return [head, *rows]


def _table(rows: Table) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


def _legend(store: Store, found: Sequence[Summary]) -> str:
    lines = [
        "Accuracy: mean ± sample standard deviation over the seeds. Difference from ReLU: mean of the paired differences of "
        f"runs with the same seed (same order, augmentation and initial weights) ± half of Student's {LEVEL:.0%} confidence "
        "interval; significant where that interval excludes 0. Seconds per epoch: median over the epochs "
        "of a run, for the fastest seed, beside the other runs in parallel."
    ]
    if store.inference:
        lines.append(
            f"Inference: onnxruntime, {store.inference['threads']} thread, batch {store.inference['batch']}, learned "
            "activations in the compiled kernel; medians of interleaved measurements."
        )
    lines += [f"{name(s)}: {len(s.failed)} runs failed ({s.failed[0]})." for s in found if s.failed]
    lines += [f"{lost}: all runs failed ({reason})." for lost, reason in _lost(store, found).items()]
    return "\n".join(lines)


def _lost(store: Store, found: Sequence[Summary]) -> dict[str, str]:
    known = {s.activation for s in found}
    return {r["activation"]: r["failed"] for r in store.runs if "failed" in r and r["activation"] not in known}


def _paper() -> list[str]:
    head = ["data set", "model", "HP-1 (paper)", "HP-2 (paper)"]
    rows = [[r.dataset.upper(), r.model, f"{r.hp1:+.2f}", f"{r.hp2:+.2f}"] for r in paper.ROWS]
    commands = "\n".join(paper.command(row) for row in paper.ROWS)
    return [
        f"{paper.SOURCE}. **Not measured here.** {paper.ABOUT}",
        _table([head, *rows]),
        "Commands that repeat these experiments on a GPU with the recipes of this repository ([training.md](training.md)); "
        "FOLDER holds the binary version of the data set:",
        f"```\n{commands}\n```",
    ]
