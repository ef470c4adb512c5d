"""On which inputs each channel of an activation is tried."""

from __future__ import annotations

import pytest
import torch

from opau_onnx.compare.grids import LARGEST, shared_out

VALUES = torch.cat([torch.linspace(-12, 12, 13_000), torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 1.0, -1.0])])
SPECIAL = 6


def test_few_channels_see_everything() -> None:
    channels = LARGEST // len(VALUES)
    shared = shared_out(VALUES, channels)
    assert shared.shape == (len(VALUES), channels)
    assert torch.equal(shared[:, -1].nan_to_num(), VALUES.nan_to_num())


@pytest.mark.parametrize("channels", [LARGEST // len(VALUES) + 1, 100, 512, 1280])
def test_many_channels_share_the_values_and_each_sees_the_special_ones(channels: int) -> None:
    shared = shared_out(VALUES, channels)
    assert shared.numel() < LARGEST * 1.1
    known, ordinary = set(VALUES.nan_to_num().tolist()), VALUES[:-SPECIAL]
    apart = -(-len(VALUES) * channels // LARGEST)
    for start in (0, channels - apart):
        together = shared[:, start : start + apart]
        assert set(together.nan_to_num().flatten().tolist()) == known
    for column in (shared[:, 0], shared[:, channels // 2], shared[:, -1]):
        assert {torch.inf, -torch.inf, 0.0, 1.0, -1.0} <= set(column.tolist())
        assert column.isnan().any()
        seen = column[column.isfinite()].unique()
        assert seen.diff().max() < 2 * apart * (ordinary[1] - ordinary[0])  # nowhere a gap
    assert not torch.equal(shared[:, 0].nan_to_num(), shared[:, 1].nan_to_num())
