"""How networks are trained: the methods by name, and a run's recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from opau_onnx.nn import balance, coefficient_parameters
from training import TrainingError
from training.pixels import Augmentation

MOMENTUM = 0.9
STEP_AT, STEP_FACTOR = (0.5, 0.75), 0.1
"""Where in the run the step schedule multiplies the learning rate, and by what (He et al., arXiv 1512.03385 and 1603.05027)."""
DECAYED = "on the weights of layers, 0 on biases and coefficients"


@dataclass(frozen=True)
class Method:
    """An optimizer with its schedule, and the defaults that go with them.

    Attributes:
        optimizer, schedule: in words, for cards.
        make: groups of parameters, learning rate -> the optimizer.
        plan: optimizer, number of steps -> the schedule, which steps after each batch.
        epochs, batch_size, lr: defaults; lr is the highest learning rate.
        weight_decay: of the weights of layers.
        smoothing: of the labels.
        crop: pixels, see :class:`training.pixels.Augmentation`.
        clip, balanced: defaults, see :class:`Recipe`.
    """

    optimizer: str
    schedule: str
    make: Callable[[list[dict[str, Any]], float], Optimizer]
    plan: Callable[[Optimizer, int], LRScheduler]
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    smoothing: float = 0.0
    crop: int = 0
    clip: float | None = None
    balanced: bool = False


def _adamw(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    return torch.optim.AdamW(groups, lr=lr)


def _sgd(groups: list[dict[str, Any]], lr: float) -> Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)


def _one_cycle(optimizer: Optimizer, steps: int) -> LRScheduler:
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)


def _cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    return CosineAnnealingLR(optimizer, steps)


def _step(optimizer: Optimizer, steps: int) -> LRScheduler:
    return MultiStepLR(optimizer, [int(share * steps) for share in STEP_AT], STEP_FACTOR)


def _for_cifar(schedule: str, plan: Callable[[Optimizer, int], LRScheduler]) -> Method:
    text = f"SGD with momentum {MOMENTUM}, weight decay 0.0005 {DECAYED}"
    return Method(text, schedule, _sgd, plan, 200, 128, 0.1, 5e-4, crop=4, clip=5.0, balanced=True)


METHODS: dict[str, Method] = {
    # What made the models that are shipped: nothing of it may change. Smoothing keeps the logits small (about 5, without it
    # above 50), and with them the absolute rounding error of any runtime.
    "onecycle": Method(
        f"AdamW, weight decay 0.0001 {DECAYED}", "one cycle (torch's OneCycleLR, cosine) that peaks at lr",
        _adamw, _one_cycle, 15, 128, 3e-3, 1e-4, smoothing=0.1,
    ),
    "sgd-cosine": _for_cifar("cosine from lr to 0 (torch's CosineAnnealingLR, after each batch)", _cosine),
    "sgd-step": _for_cifar("lr, a tenth of it from half of the run, a hundredth from three quarters", _step),
}  # fmt: skip
"""Name -> method. Which one the method's paper used could not be read: the last two are the customary ones for CIFAR."""


def default_method(architecture: str) -> str:
    """LeNet has no batch norms, without which the learning rates that are customary for CIFAR are too high."""
    return "onecycle" if architecture == "lenet" else "sgd-cosine"


@dataclass(frozen=True)
class Recipe:
    """Everything about a run that changes the weights, apart from the network and the data.

    Attributes:
        method: a key of :data:`METHODS`.
        epochs, batch_size, lr: see :class:`Method`.
        seed: of weights, order and augmentation.
        threads: of PyTorch.
        mirrored: whether mirrored images are of the same class, as :class:`training.datasets.Kind` has it.
        clip: largest norm of the gradient; None for no limit.
        balanced: whether the coefficients' gradients are brought to one scale, :func:`opau_onnx.nn.balance`.
        coefficient_lr: learning rate of the coefficients over that of the weights.
        precision: "float32", "bfloat16" or "float16".
        device: "cpu" or "cuda".
    """

    method: str
    epochs: int
    batch_size: int
    lr: float
    seed: int = 0
    threads: int = 1
    mirrored: bool = True
    clip: float | None = None
    balanced: bool = False
    coefficient_lr: float = 1.0
    precision: str = "float32"
    device: str = "cpu"

    @property
    def plan(self) -> Method:
        """The method itself."""
        return METHODS[self.method]

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of training images."""
        return Augmentation(self.mirrored, self.plan.crop)

    def describe(self) -> dict[str, Any]:
        """Everything about the training that does not differ between activations, for the card."""
        plan, smoothing = self.plan, self.plan.smoothing
        extra = {
            "gradient_norm": None if self.clip is None else f"at most {self.clip:g}",
            "coefficients": "each gradient over the mean square of its basis function" if self.balanced else None,
            "coefficient_lr": None if self.coefficient_lr == 1.0 else f"{self.coefficient_lr:g} times lr",
            "precision": None if self.precision == "float32" else f"{self.precision} autocast",
            "device": None if self.device == "cpu" else self.device,
        }
        return {
            **{name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "seed", "threads")},
            "optimizer": plan.optimizer,
            "schedule": plan.schedule,
            "loss": f"cross-entropy, label smoothing {smoothing}" if smoothing else "cross-entropy",
            "augmentation": str(self.augmentation),
            "selection": "none: the weights after the last epoch",
            **{name: text for name, text in extra.items() if text is not None},
        }


def make_recipe(method: str, *, mirrored: bool, clip: float | None = None, **options: Any) -> Recipe:
    """A recipe with the method's defaults for what is None; a ``clip`` of 0 is no limit.

    Raises:
        TrainingError: an unknown method, or a number that is not above 0.
    """
    if method not in METHODS:
        raise TrainingError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    plan = METHODS[method]
    chosen = {name: getattr(plan, name) for name in ("epochs", "batch_size", "lr", "balanced")}
    chosen |= {name: value for name, value in options.items() if value is not None}
    for name in ("epochs", "batch_size", "lr", "threads"):
        if name in chosen and not chosen[name] > 0:
            raise TrainingError(f"{name} is {chosen[name]}; expected a number above 0")
    for name, value in (("clip", clip), ("coefficient_lr", chosen.get("coefficient_lr"))):
        if value is not None and not value >= 0:
            raise TrainingError(f"{name} is {value}; expected 0 or more")
    return Recipe(method, mirrored=mirrored, clip=plan.clip if clip is None else clip or None, **chosen)


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Weights of layers, which decay; biases and other vectors; the coefficients of activations, with a rate of their own."""
    learned = coefficient_parameters(model)
    own = {id(p) for p in learned}
    others = [p for p in model.parameters() if id(p) not in own]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": recipe.plan.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
        {"params": learned, "weight_decay": 0.0, "lr": recipe.lr * recipe.coefficient_lr},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[Optimizer, LRScheduler]:
    """The optimizer of a run, and its schedule over so many steps."""
    optimizer = recipe.plan.make(parameter_groups(model, recipe), recipe.lr)
    if recipe.balanced:
        balance(optimizer, model)
    return optimizer, recipe.plan.plan(optimizer, steps)
