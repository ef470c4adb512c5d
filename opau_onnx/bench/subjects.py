"""Subjects of a comparison: one list, from which measurements, tables and plots take their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from opau_onnx.bench import machine, nodes
from opau_onnx.bench.names import STANDARD, SUBJECTS
from opau_onnx.bench.sessions import PROVIDERS, Memory, Session, described
from opau_onnx.bench.timing import Subject
from opau_onnx.core.spec import OP_TYPE, Config
from opau_onnx.errors import BenchError
from opau_onnx.nn import OrthogonalPade

Maker = Callable[[int], Subject]
"""Number of elements -> the subject at that size."""


@dataclass(frozen=True)
class Task:
    """State that the subjects of one dtype share.

    Attributes:
        config: the activation.
        dtype: of the tensors.
        device: "cpu" or "cuda".
        x, y: the largest input, and room for the result; smaller sizes use their beginning.
    """

    config: Config
    dtype: str
    device: str
    x: torch.Tensor
    y: torch.Tensor

    @staticmethod
    def create(config: Config, dtype: str, device: str, elements: int) -> Task:
        """Normal values of spread 2, as they stand before activations; all subjects read and write the same memory."""
        if device == "cuda" and not torch.cuda.is_available():
            raise BenchError(
                "the device is cuda, but this PyTorch, whose tensors are the memory, has none; install its CUDA build"
            )
        generator = torch.Generator().manual_seed(0)
        x = 2 * torch.randn(elements, generator=generator)
        kind = getattr(torch, dtype)
        return Task(config, dtype, device, x.to(device, kind), torch.zeros(elements, dtype=kind, device=device))

    def module(self) -> OrthogonalPade:
        """The activation with its initial coefficients, a fit to Leaky ReLU."""
        torch.manual_seed(0)
        return OrthogonalPade(self.config.basis, self.config.degrees, self.config.form)

    def memory(self, elements: int) -> tuple[Memory, Memory]:
        """x and y as onnxruntime binds them."""
        kind = int(nodes.TYPES[self.dtype])
        one, two = (Memory(t.data_ptr(), (elements,), kind, t) for t in (self.x, self.y))
        return one, two


def make(task: Task, keys: Iterable[str]) -> tuple[dict[str, Maker], dict[str, str]]:
    """A maker for each subject that can run here, and for the others the reason why not."""
    makers: dict[str, Maker] = {}
    reasons: dict[str, str] = {}
    for key in keys:
        try:
            makers[key] = _session(task, key) if SUBJECTS[key].pool == "onnxruntime" else _torch(task, key)
        except BenchError as error:
            reasons[key] = str(error)
    return makers, reasons


def _session(task: Task, key: str) -> Maker:
    library, missing = machine.library() if key == "kernel" else (None, None)
    if missing:
        raise BenchError(missing)
    op_type = STANDARD.get(key)
    model = nodes.standard(op_type, task.dtype) if op_type else nodes.activation(task.module(), task.dtype)
    who = f"onnxruntime's {task.device.upper()} provider"
    try:
        session = Session(model, task.device, library)
    except BenchError as error:
        if op_type or key == "function":
            raise BenchError(f"not available in {who} for {task.dtype} ({error})") from None
        raise
    assigned = session.nodes()
    _check_assignment(task, key, op_type or OP_TYPE, assigned, who)
    implementation = described(assigned)
    if library and task.device == "cpu":
        implementation += f", compiled, {machine.instruction_set() or 'instruction set unknown'}"

    def at(elements: int) -> Subject:
        run = session.prepare(*task.memory(elements))
        return Subject(key, SUBJECTS[key].label, implementation, "onnxruntime", run)

    return at


def _check_assignment(task: Task, key: str, op_type: str, assigned: list[tuple[str, str]], who: str) -> None:
    """Refuse what runs otherwise than its name says: on another device, through casts, or as a function body."""
    elsewhere = {provider for provider, _ in assigned} - {PROVIDERS[task.device]}
    if elsewhere:
        raise BenchError(f"not available in {who} for {task.dtype}: it would run on {', '.join(sorted(elsewhere))}")
    operators = [op for _, op in assigned]
    if key != "function" and operators != [op_type]:
        raise BenchError(f"not available in {who} for {task.dtype}: it would run as {', '.join(operators)}")
    if key == "function" and op_type in operators:
        raise BenchError("onnxruntime did not take the function body")


def _torch(task: Task, key: str) -> Maker:
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "torch-relu": lambda x, y: torch.relu(x),
        "copy": lambda x, y: y.copy_(x),
    }
    about = f"PyTorch {torch.__version__}, {task.device}"
    function = functions.get(key) or _module(task, compiled=key == "compile")

    def at(elements: int) -> Subject:
        x, y = task.x[:elements], task.y[:elements]

        def repeat(count: int) -> None:
            with torch.no_grad():
                for _ in range(count):
                    function(x, y)
                    if task.device == "cuda":  # after each, as onnxruntime does
                        torch.cuda.synchronize()

        return Subject(key, SUBJECTS[key].label, about, "torch", repeat)

    return at


def _module(task: Task, *, compiled: bool) -> Callable[[Any, Any], Any]:
    module = task.module().to(task.device, getattr(torch, task.dtype)).requires_grad_(False)
    if not compiled:
        return lambda x, y: module(x)
    fast = torch.compile(module, dynamic=True)  # one piece of code for all sizes
    try:
        with torch.no_grad():
            fast(task.x[: min(1000, len(task.x))])
    except Exception as error:  # no compiler, or one that fails
        raise BenchError(f"torch.compile fails: {str(error).strip().splitlines()[0]}") from None
    return lambda x, y: fast(x)
