"""What products of 8 bits cost and gain, measured on a network small enough to do so here."""

import torch

from cait_dist.models import architecture
from float8 import errors, times
from parts.timing import Manner

ARCH = architecture(
    "cait_xxs24_224", image_size=56, patch_size=8, embed_dim=32, num_heads=2, depth=2, layer_scale_init=1.0
)
CPU = torch.device("cpu")


def test_8_bits_are_farther_from_fp32_than_16_and_not_far() -> None:
    found = errors(ARCH, 2, CPU)
    assert list(found) == ["bf16", "float8"]
    assert all(0 < value < 0.5 for row in found.values() for value in row.values())
    for name in ("median_gradient", "worst_gradient"):  # in so small a network bf16 itself decides the logits
        assert 2 * found["bf16"][name] < found["float8"][name], name


def test_every_way_to_compute_a_block_is_timed_or_its_failure_told(monkeypatch) -> None:
    monkeypatch.setattr("float8.compile_branches", lambda alone: 1 / 0)
    rows = times(ARCH, 2, Manner(CPU, "bf16", rounds=1))
    assert [row["contender"] for row in rows] == ["bf16", "float8", "bf16 compiled", "float8 compiled"]
    assert [row["failed"] is None for row in rows] == [True, True, False, False]
    assert rows[1]["times_faster_than_bf16"] > 0
