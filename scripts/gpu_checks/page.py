"""The record of scripts/gpu.py as a page."""

from __future__ import annotations

from typing import Any


def page(record: dict[str, Any]) -> str:
    machine, parts = record["machine"], record["parts"]
    lines = ["# CUDA kernels on a GPU", ""]
    lines.append(
        f"`make gpu`, {machine['date']}: {machine['device']}"
        + ("" if machine["dry"] else f", driver {machine['driver']}, torch {machine['torch']}, CUDA {machine['cuda']}")
        + ". The library's plain C interface, PyTorch's memory and streams, but for what goes through onnxruntime."
    )
    if "kernels" in parts:
        lines += ["", *_kernels(parts["kernels"])]
    if "sanitizer" in parts:
        lines += ["", *_sanitizer(parts["sanitizer"])]
    if "bench" in parts:
        lines += ["", *_bench(parts["bench"])]
    if "training" in parts:
        lines += ["", *_training(parts["training"])]
    if "networks" in parts:
        lines += ["", *_networks(parts["networks"])]
    if "serving" in parts:
        lines += ["", *_serving(parts["serving"])]
    return "\n".join(lines) + "\n"


def _networks(part: dict[str, Any]) -> list[str]:
    lines = [
        "## Training whole networks",
        "",
        "Images a second (SGD with momentum, forward, backward and step), in one run:",
        "",
    ]
    lines += ["| | batch | nn.ReLU | nn.GELU | HP-1 | HP-1's step over nn.ReLU's |", "|---" * 6 + "|"]
    for row in part["rows"]:
        if "failed" in row:
            lines.append(f"| {row['what']} | {row['batch']} | {row['failed']} | | | |")
            continue
        relu, gelu, ours = (row[name] for name in ("nn.ReLU", "nn.GELU", "HP-1"))
        lines.append(f"| {row['what']} | {row['batch']} | {relu:,.0f} | {gelu:,.0f} | {ours:,.0f} | {relu / ours:.2f} |")
    return lines + ([] if not part["not_run"] else ["", f"Not run, for want of time: {', '.join(part['not_run'])}."])


def _serving(part: dict[str, Any]) -> list[str]:
    lines = ["## Through onnxruntime", ""]
    if "note" in part:
        return [*lines, f"Not run: {part['note']}."]
    names = list(part["networks"][0]["ms"])
    lines += ["Milliseconds a run, inputs and outputs bound in device memory; medians of turns:", ""]
    lines += ["| | batch | " + " | ".join(names) + " | kernel over ReLU |", "|---" * (3 + len(names)) + "|"]
    for row in part["networks"]:
        times = [row["ms"][name] for name in names]
        cells = " | ".join(f"{one:.3f}" for one in times)
        lines.append(f"| {row['network']} | {row['batch']} | {cells} | {times[1] / times[0]:.2f} |")
    lines += ["", "opau-serve over gRPC, 16 closed-loop clients, one row a request, every result compared with the CPU's:", ""]
    lines += ["| | activation | CUDA graph | rows/s | p50 ms | p99 ms | results |", "|---" * 7 + "|"]
    for row in part["served"]:
        lines.append(
            f"| {row['network']} | {row['activation']}: {row['implementation']} | {'yes' if row['cuda_graph'] else 'no'} | "
            f"{row['rows_per_s']:,.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {row['counts']} |"
        )
    return lines


def _training(part: dict[str, Any]) -> list[str]:
    total = sum(part["compared"].values())
    verdict = (
        "values and input gradients with the CPU kernels' bits, sums the same at each call" if part["passed"] else "FAILED"
    )
    lines = ["## Training", "", f"{total:,} combinations: {verdict}.", *[f"* {text}" for text in part["failures"]]]
    if not part["times"]:
        return lines
    names = [name for name in part["times"][0] if name not in ("dtype", "megabytes", "relu_us")]
    lines += ["", "Forward and backward over those of nn.ReLU, eager, in a CUDA graph:", ""]
    lines += ["| dtype | MB | nn.ReLU, µs | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for row in part["times"]:
        cells = [row["dtype"], str(row["megabytes"]), str(row["relu_us"]), *(f"{row[name]:.2f}" for name in names)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _kernels(part: dict[str, Any]) -> list[str]:
    total = sum(part["compared"].values())
    verdict = "all with the CPU kernels' bits" if part["passed"] else f"{len(part['failures'])} differ"
    return [
        "## Bits",
        "",
        f"{total:,} combinations of dtype, basis, denominator, degrees and sharing, {part['placements']['tried']:,} placements "
        f"of input and output, {part['streams']['tried']} streams, {part['graph']['tried']} replays of a captured graph and "
        f"{part['beyond_2_31']['tried']} tensors of more than 2^31 elements: {verdict}.",
        *[f"* {text}" for text in part["failures"]],
    ]


def _sanitizer(part: dict[str, Any]) -> list[str]:
    lines = ["## compute-sanitizer", ""]
    if not part["tools"]:
        return [*lines, f"Not run: {part['note']}."]
    return lines + [
        f"* {name}: exit code {one['exit_code']}, {' '.join(one['summary'])}" for name, one in part["tools"].items()
    ]


def _bench(part: dict[str, Any]) -> list[str]:
    rows = [row for row in part["rows"] if "over_copy" in row]
    columns = list(dict.fromkeys((row["dtype"], row["megabytes"]) for row in rows))
    names = list(dict.fromkeys(row["what"] for row in rows))
    known = {(row["what"], row["dtype"], row["megabytes"]): row["over_copy"] for row in rows}
    lines = [
        "## Time over that of a device-to-device copy of the same bytes",
        "",
        "Calls in a CUDA graph, the smallest of five replays; the size is that of the input.",
        "",
        "| | " + " | ".join(f"{dtype}, {size} MB" for dtype, size in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in names:
        cells = [f"{known[name, *column]:.2f}" if (name, *column) in known else "" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    launch = part["launch"]
    return [
        *lines,
        "",
        f"1 Ki elements of float32: {launch['in_graph']} µs in a graph (torch's relu {launch['relu_in_graph']}), "
        f"{launch['python_call']} µs a call from Python.",
    ]
