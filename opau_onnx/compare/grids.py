"""Inputs for isolated activations: hard and usual ones, in shapes in which every channel sees them."""

from __future__ import annotations

import numpy as np
import torch

from opau_onnx.core.spec import Config

DENSE = 12.0
"""The grid is dense up to this magnitude, and the largest absolute error is that of this range."""

WELL_CONDITIONED = 10.0
"""The largest error in ULP is that of the inputs whose condition number is below this: elsewhere P or Q cancels."""

LARGEST = 2**18
"""So many inputs are tried at once at most, for all channels together: the oracle takes a second for them."""


def grid(dtype: torch.dtype) -> torch.Tensor:
    """Inputs that are hard or usual: dense around zero, all magnitudes of the dtype, zeros, infinities and NaN."""
    info = torch.finfo(dtype)
    dense = torch.linspace(-DENSE, DENSE, 4801, dtype=torch.float64)
    small, large = np.log2(info.smallest_normal), np.log2(info.max)
    magnitudes = torch.exp2(torch.linspace(float(small), float(large) - 1e-3, 600, dtype=torch.float64))
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, info.max, -info.max, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    return torch.cat([dense, magnitudes, -magnitudes, special]).to(dtype)


def shaped(config: Config, values: torch.Tensor, channels: int | None = None, axes: int | None = None) -> torch.Tensor:
    """Inputs in a shape in which every channel sees every value, or its share of them where these are many: :func:`shared_out`.

    Args:
        config: whose groups.
        values: shape (N,).
        channels: number of channels; None for one in each group.
        axes: number of axes that the result has at least, besides one for the values; None for as few as will do.
    """
    if config.groups == 1:
        return values
    rank = config.axis + 1 if config.axis >= 0 else -config.axis
    shape = [1] * max(rank, axes or 0)
    shape[config.axis] = channels or config.groups
    columns = shared_out(values, shape[config.axis]).reshape(-1, *shape)
    return columns.movedim(0, -1 if config.axis >= 0 else 0).contiguous()


def shared_out(values: torch.Tensor, channels: int) -> torch.Tensor:
    """(N,) to (M, channels): what each channel is tried on.

    All values, where these are few enough. Otherwise every n-th, from another one on for each channel, so that n channels
    together see all; and infinities, NaN, zeros and ones, and the largest values, for every channel.
    """
    apart = -(-len(values) * channels // LARGEST)
    if apart == 1:
        return values[:, None].expand(-1, channels)
    shares = values[(torch.arange(0, len(values), apart)[:, None] + torch.arange(channels)) % len(values)]
    extreme = torch.finfo(values.dtype).max
    special = values[~values.isfinite() | (values == 0) | (values.abs() == 1) | (values.abs() == extreme)]
    return torch.cat([shares, special[:, None].expand(-1, channels)])
