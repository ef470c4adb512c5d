"""PyTorch's transformer layers around a learned activation: their fused paths and a copy that forgets it."""

from __future__ import annotations

from typing import Any

from torch import nn


class TransformerDecoderLayer(nn.TransformerDecoderLayer):
    """PyTorch's layer, whose copies and pickles keep an activation that is a module.

    The layer's own ``__setstate__`` takes an activation that is not a plain attribute for a missing one, and sets ReLU over it
    (torch 2.13). :func:`opau_onnx.nn.replace_activations` makes the layers that it touches this class.
    """

    def __setstate__(self, state: Any) -> None:
        nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]


def settle(model: nn.Module, name: str, holder: nn.Module) -> None:
    """After a swap inside ``holder``, the module ``name`` of ``model``: leave fused paths that compute the old activation."""
    if isinstance(holder, nn.TransformerEncoderLayer):
        # Without this its fused inference path would go on computing the ReLU or GELU that it was made with.
        holder.activation_relu_or_gelu = 0
        for end in [i for i, c in enumerate(name) if c == "."] + [len(name)]:
            parent = model.get_submodule(name[:end].rpartition(".")[0])
            if isinstance(parent, nn.TransformerEncoder):
                # It decided when it was made that its layers take nested tensors, which only the fused path needs.
                parent.use_nested_tensor = False
    if type(holder) is nn.TransformerDecoderLayer:
        holder.__class__ = TransformerDecoderLayer


def shadowed(model: nn.Module) -> list[str]:
    """The layers whose activation is a module that torch's ``__setstate__`` has hidden behind ReLU."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.TransformerDecoderLayer) and "activation" in module._modules and "activation" in vars(module)
    ]
