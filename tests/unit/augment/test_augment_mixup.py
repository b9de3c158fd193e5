import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from cait_dist.augment.mixup import MIX_DRAWS, MixPlan, PairError, cutmix_boxes, mix_batch, mix_plan
from cait_dist.config.augment import AugmentConfig
from cait_dist.data.randomness import Stream, uniform

SIZE, CLASSES = 32, 7


def timm_mixup() -> Any:
    """timm.data.mixup, the reference; torchvision's shape functions may not know the operators of a CPU build."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    return pytest.importorskip("timm.data.mixup", reason="timm, the reference, is not installed")


def plan_for(positions: np.ndarray, config: AugmentConfig, size: int = SIZE) -> MixPlan | None:
    return mix_plan(positions, uniform(3, Stream.MIX, positions // config.mix_group, MIX_DRAWS), config, size)


def plan_of_groups(count: int, size: int = SIZE, **settings: float) -> MixPlan:
    """One pair from each of many groups, as a plan of ``count`` rows, one per group."""
    config = AugmentConfig(mix_group=2, **settings)
    plan = plan_for(np.arange(2 * count), config, size)
    assert plan is not None
    return MixPlan(plan.blend[::2], plan.label_weight[::2], plan.boxes[::2])


def batch(count: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator).to(dtype)
    return images, torch.randint(CLASSES, (count,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("cut", [False, True])
def test_pixels_and_targets_are_those_of_timm(cut: bool, smoothing: float) -> None:
    reference = timm_mixup()
    images, labels = batch(2)
    settings = {"mixup": 0.0, "cutmix": 1.0} if cut else {"mixup": 0.8, "cutmix": 0.0}
    plan = plan_for(np.arange(2), AugmentConfig(**settings))
    lam = plan.label_weight[0].item()
    # timm pairs the first with the last, which in a batch of two is what we pair.
    if cut:
        top, bottom, left, right = plan.boxes[0].tolist()
        assert 0 < (bottom - top) * (right - left) < SIZE**2
        expected = images.clone()
        expected[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        assert lam == pytest.approx(1 - (bottom - top) * (right - left) / SIZE**2, abs=1e-7)
    else:
        assert not plan.boxes.any()
        expected = images * lam + images.flip(0) * (1 - lam)
    targets = reference.mixup_target(labels, CLASSES, lam, smoothing)
    found_images, found_targets = mix_batch(images, labels, plan, CLASSES, smoothing)
    torch.testing.assert_close(found_images, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(found_targets, targets.float(), atol=1e-7, rtol=0)


def test_boxes_follow_the_law_of_timm() -> None:
    rand_bbox = timm_mixup().rand_bbox
    stats = pytest.importorskip("scipy.stats")
    count = 2000
    lam = uniform(0, 0, np.arange(count), 1)[:, 0]
    places = uniform(0, 1, np.arange(count), 2)
    ours = cutmix_boxes(lam, places[:, 0], places[:, 1], SIZE)
    np.random.seed(0)
    theirs = np.array([rand_bbox((1, 3, SIZE, SIZE), value) for value in lam])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    # Where no border cuts it off, the size follows from lam and must be equal to the pixel.
    free = [(low > 0).all(1) & (high < SIZE).all(1) for low, high in ((b[:, ::2], b[:, 1::2]) for b in (ours, theirs))]
    both = free[0] & free[1]
    assert both.sum() > 100
    np.testing.assert_array_equal((ours[:, 1] - ours[:, 0])[both], (theirs[:, 1] - theirs[:, 0])[both])


@pytest.mark.parametrize("alpha", [0.4, 0.8, 1.0, 3.0])
def test_ratios_are_beta_distributed(alpha: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    lam = plan_of_groups(4000, mixup=alpha, cutmix=0.0).blend.double().numpy()
    assert stats.kstest(lam, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("settings", [{}, {"cutmix": 0.0}, {"mixup": 0.0}, {"mix_probability": 0.6}])
def test_weights_of_labels_follow_the_law_of_timm(settings: dict[str, float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    config = AugmentConfig(**settings)
    ours = plan_of_groups(4000, size=224, **settings).label_weight.double().numpy()
    mixup = timm_mixup()
    mixing = mixup.Mixup(config.mixup, config.cutmix, prob=config.mix_probability, switch_prob=config.cutmix_share)
    np.random.seed(0)
    theirs = []
    for _ in range(4000):
        lam, cut = mixing._params_per_batch()
        theirs.append(mixup.cutmix_bbox_and_lam((1, 3, 224, 224), lam)[1] if cut else lam)
    assert stats.ks_2samp(ours, np.array(theirs, dtype=np.float64)).pvalue > 1e-3


def test_shares_of_mixup_cutmix_and_neither_are_those_asked_for() -> None:
    count = 20_000
    plan = plan_of_groups(count, size=224, mix_probability=0.7, cutmix_share=0.3)
    cut = plan.boxes.any(1)
    mixed = plan.blend != 1
    assert not (cut & mixed).any()
    tolerance = 5 * 0.5 / count**0.5
    assert cut.float().mean().item() == pytest.approx(0.7 * 0.3, abs=tolerance)
    assert mixed.float().mean().item() == pytest.approx(0.7 * 0.7, abs=tolerance)
    assert (plan.label_weight[~cut & ~mixed] == 1).all()


@pytest.mark.parametrize(("only", "cuts"), [({"cutmix": 0.0}, False), ({"mixup": 0.0}, True)])
def test_one_kind_alone_gets_the_whole_share(only: dict[str, float], cuts: bool) -> None:
    plan = plan_of_groups(1000, size=224, **only)
    assert (plan.boxes.any(1).float().mean() > 0.98) == cuts
    assert ((plan.blend != 1).all().item()) != cuts


def test_a_group_shares_its_decisions_and_groups_differ() -> None:
    plan = plan_for(np.arange(64 * 50), AugmentConfig())
    weights = plan.label_weight.view(50, 64)
    assert (weights == weights[:, :1]).all()
    assert (plan.boxes.view(50, 64, 4) == plan.boxes.view(50, 64, 4)[:, :1]).all()
    assert len(weights[:, 0].unique()) > 45


@pytest.mark.parametrize("pieces", [2, 3, 8, 48])
def test_cutting_the_stream_does_not_matter(pieces: int) -> None:
    config = AugmentConfig(mix_group=16)
    images, labels = batch(96)
    start = 32 * 5

    def mix(begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        plan = plan_for(np.arange(start + begin, start + end), config)
        return mix_batch(images[begin:end], labels[begin:end], plan, CLASSES, 0.1)

    whole = mix(0, 96)
    step = 96 // pieces
    parts = [mix(begin, begin + step) for begin in range(0, 96, step)]
    for i in range(2):
        assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_partners_are_neighbours() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, SIZE, SIZE)
    plan = MixPlan(torch.zeros(6), torch.zeros(6), torch.zeros(6, 4, dtype=torch.int64))
    mixed, targets = mix_batch(images, torch.arange(6), plan, 6)
    assert mixed[:, 0, 0, 0].tolist() == [1, 0, 3, 2, 5, 4]
    assert targets.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_labels_are_smoothed_one_hot(smoothing: float) -> None:
    images, labels = batch(5)
    assert plan_for(np.arange(5), AugmentConfig(mixup=0, cutmix=0)) is None
    assert plan_for(np.arange(5), AugmentConfig(mix_probability=0)) is None
    same, targets = mix_batch(images, labels, None, CLASSES, smoothing)
    assert same is images
    expected = torch.full((5, CLASSES), smoothing / CLASSES)
    expected[torch.arange(5), labels] = 1 - smoothing + smoothing / CLASSES
    torch.testing.assert_close(targets, expected)
    assert targets.dtype == torch.float32


def test_unmixed_samples_of_a_mixed_run_keep_their_bits() -> None:
    images, labels = batch(200)
    plan = plan_for(np.arange(200), AugmentConfig(mix_group=2, mix_probability=0.5))
    mixed, targets = mix_batch(images, labels, plan, CLASSES)
    alone = plan.label_weight == 1
    assert 0.3 < alone.float().mean() < 0.7
    assert torch.equal(mixed[alone], images[alone])
    assert (targets[alone].max(1).values == 1).all()


def test_type_of_images_is_kept_and_targets_sum_to_one() -> None:
    images, labels = batch(64, torch.bfloat16)
    mixed, targets = mix_batch(images, labels, plan_for(np.arange(64), AugmentConfig()), CLASSES, 0.1)
    assert mixed.dtype == torch.bfloat16
    assert mixed.shape == images.shape
    torch.testing.assert_close(targets.sum(1), torch.ones(64))


@pytest.mark.parametrize("positions", [[0, 1, 2], [1, 2], [0, 1, 3, 4], [2, 1]])
def test_torn_pairs_are_refused(positions: list[int]) -> None:
    with pytest.raises(PairError, match="whole pairs"):
        plan_for(np.array(positions), AugmentConfig())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_is_never_waited_for() -> None:
    images, labels = (tensor.cuda() for tensor in batch(64, torch.bfloat16))
    plan = plan_for(np.arange(64), AugmentConfig())
    expected = mix_batch(images.cpu(), labels.cpu(), plan, CLASSES, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = mix_batch(images, labels, plan, CLASSES, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found[0].cpu(), expected[0])
    torch.testing.assert_close(found[1].cpu(), expected[1])
