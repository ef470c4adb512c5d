"""How Triton is to serve a model, and which options make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from opau_onnx.errors import DeployError
from opau_onnx.protocol.model_config import QueuePolicy
from opau_onnx.serve.config import NAME, ModelSettings

_DEFAULTS = ModelSettings(path="")
"""Model names that opau-serve accepts; the same here."""
_QUEUE = QueuePolicy(max_size=_DEFAULTS.max_queue)


@dataclass(frozen=True)
class Options:
    """How Triton is to serve a model.

    Attributes:
        name: of the model; None: the file's name.
        device: "cpu", "cuda" or "auto" (Triton chooses).
        max_batch_size: rows of one run; 0: not batched; None: 32 where the model takes any number of rows, else 0.
        max_batch_delay_us: how long a request waits for others, in microseconds.
        preferred: row counts that are run at once when they are reached.
        queue: of the dynamic batcher.
        batch_check: before batching, find out whether a row's result depends on the other rows.
        instances: for each device.
        gpus: on which ones; empty: all.
        threads: of onnxruntime within a run on the CPU; 0: one for each core.
        parameters: further ones of the backend, see :data:`opau_onnx.deploy.backend.PARAMETERS`.
        cuda: options of onnxruntime's CUDA provider.
        input_shapes: sizes where axes other than the first are open, by input, the batch axis included.
        warmup: run zeros through every instance before the model is ready.
        library: whether the compiled op library runs the learned activations; else the functions in the file do, slowly.
        library_path: where it lies on the machine that serves; None: a copy in the repository.
        repository_path: where the repository lies on the machine that serves; None: where it lies here.
        replace: a model of that name may be there.
    """

    name: str | None = None
    device: str = "cpu"
    max_batch_size: int | None = None
    max_batch_delay_us: int = _DEFAULTS.max_batch_delay_us
    preferred: tuple[int, ...] = ()
    queue: QueuePolicy = _QUEUE
    batch_check: bool = True
    instances: int = 1
    gpus: tuple[int, ...] = ()
    threads: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    cuda: Mapping[str, str] = field(default_factory=dict)
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    warmup: bool = True
    library: bool = True
    library_path: str | None = None
    repository_path: str | None = None
    replace: bool = False


def queue_policy(
    max_size: int | None = None, *, timeout_us: int = 0, delay: bool = False, override: bool = False
) -> QueuePolicy:
    """A queue, as long as opau-serve's where no size is given."""
    return QueuePolicy(_QUEUE.max_size if max_size is None else max_size, timeout_us, delay, override)


def model_name(model: Path, options: Options) -> str:
    """The model's, or an error where that is none for a folder and an address."""
    name = options.name or model.stem
    if not NAME.fullmatch(name):
        raise DeployError(f"{name!r} cannot name a model; use letters, digits, '_', '-' and '.' (--name)")
    return name


def check_device(options: Options) -> None:
    """Check that the options fit the device; raise DeployError otherwise."""
    if options.device not in ("auto", "cpu", "cuda"):
        raise DeployError(f"device is {options.device!r}; expected 'auto', 'cpu' or 'cuda'")
    if options.device == "cpu" and (options.cuda or options.gpus):
        raise DeployError("options of the CUDA provider or GPUs are given for the device 'cpu'; choose 'cuda'")
    if options.instances < 1:
        raise DeployError(f"instances is {options.instances}; expected at least 1")


def absolute(what: str, path: str | None) -> str | None:
    """A path on the machine where Triton runs; a DeployError where it is relative."""
    if path is not None and not PurePosixPath(path).is_absolute():
        raise DeployError(f"{what} is {path!r}; expected an absolute path on the machine where Triton runs")
    return path


def check_unbatched(options: Options, alone: str) -> None:
    """Refuse options of the batcher for a model without one: a DeployError with the reason ``alone``."""
    given = {
        "preferred": options.preferred, "max_batch_delay_us": options.max_batch_delay_us != _DEFAULTS.max_batch_delay_us,
        "queue": options.queue != _QUEUE,
    }  # fmt: skip
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise DeployError(f"{' and '.join(wrong)} cannot be set: requests are not batched, since {alone}")
