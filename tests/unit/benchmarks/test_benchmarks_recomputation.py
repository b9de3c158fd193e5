"""What recomputation saves: views of one network, measured as the planner counts."""

import pytest
import torch

from cait_dist.models import Cait, architecture
from parts.timing import Manner
from recomputation import POLICIES, kept_per_image, measure_policies, with_policy

MANNER = Manner(torch.device("cpu"), "fp32", rounds=1)


@pytest.fixture(scope="module")
def views() -> dict[str, Cait]:
    torch.manual_seed(0)
    network = Cait(architecture("cait_xxs24_224", depth=4, num_classes=10))
    return {policy: with_policy(network, policy) for policy in POLICIES}


def test_all_compute_the_same_gradients_of_the_same_parameters(views: dict[str, Cait]) -> None:
    images, found = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)), []
    for view in views.values():
        view.zero_grad()
        view(images).square().sum().backward()
        found.append([parameter.grad for parameter in views["none"].parameters()])
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


def test_the_more_is_recomputed_the_less_is_kept(views: dict[str, Cait]) -> None:
    kept = [kept_per_image(view, MANNER) for view in views.values()]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > 3 * kept[-1]


def test_rows_have_what_was_measured_beside_what_is_counted(views: dict[str, Cait]) -> None:
    rows = list(measure_policies("xxs24", views, 1, MANNER))
    assert [row["contender"] for row in rows] == list(POLICIES)
    for row in rows:
        assert row["counted_bytes"] == pytest.approx(row["kept_bytes_per_image"], rel=0.02)
        assert row["milliseconds"] > 0
