"""The ratios are those of a computation by hand, block by block, without any hook."""

import pytest
import torch
from analysed_models import images, tiny_model

from cait_dist.analysis.residual_norms import measure_ratios
from cait_dist.models import Cait


def by_hand(model: Cait, batch: torch.Tensor) -> dict[tuple[str, int, str], torch.Tensor]:
    """Ratios per token, as the definition says."""
    found = {}
    with torch.no_grad():
        x = model.patch_embed(batch) + model.pos_embed
        for number, block in enumerate(model.blocks, 1):
            for branch, f, gamma in (
                ("attention", lambda x: block.attn(block.norm1(x)), block.gamma_1),  # noqa: B023
                ("feed-forward", lambda x: block.mlp(block.norm2(x)), block.gamma_2),  # noqa: B023
            ):
                added = gamma * f(x)
                found["self-attention", number, branch] = added.norm(dim=2) / x.norm(dim=2)
                x = x + added
        cls = model.cls_token.expand(len(batch), -1, -1)
        for number, block in enumerate(model.blocks_token_only, 1):
            added = block.gamma_1 * block.attn(block.norm1(torch.cat((cls, x), 1)))
            found["class-attention", number, "attention"] = added.norm(dim=2) / cls.norm(dim=2)
            cls = cls + added
            added = block.gamma_2 * block.mlp(block.norm2(cls))
            found["class-attention", number, "feed-forward"] = added.norm(dim=2) / cls.norm(dim=2)
            cls = cls + added
    return found


def test_ratios_equal_a_computation_by_hand() -> None:
    model, batch = tiny_model(), images(5)
    measured = measure_ratios(model, [batch[:3], batch[3:]])
    expected = by_hand(model, batch)
    assert [(r.stage, r.layer, r.branch) for r in measured] == list(expected)
    for ratio in measured:
        values = expected[ratio.stage, ratio.layer, ratio.branch]
        assert values.numel() == (5 * 9 if ratio.stage == "self-attention" else 5)
        assert ratio.mean == pytest.approx(float(values.mean()), rel=1e-5)
        quantiles = torch.quantile(values.double(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        assert ratio.quantiles == pytest.approx(quantiles.tolist(), rel=1e-5)
    assert len({round(ratio.mean, 4) for ratio in measured}) == len(measured), "a mix-up of layers could go unseen"


def test_watching_changes_nothing_and_leaves_nothing_behind() -> None:
    model, batch = tiny_model(), images()
    with torch.no_grad():
        before = model(batch)
        measure_ratios(model, [batch])
        assert torch.equal(model(batch), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_branch_without_scale_and_one_with_a_scalar_are_measured_too() -> None:
    batch = images()
    for residual in ("pre_norm", "scalar", "rezero"):
        settings = {"layer_scale_init": None} if residual != "scalar" else {}
        measured = measure_ratios(tiny_model(residual=residual, **settings), [batch])
        assert len(measured) == 10
        assert all(ratio.mean > 0 for ratio in measured)


def test_twice_the_scale_is_twice_the_ratio_of_the_first_branch() -> None:
    model, batch = tiny_model(), images()
    before = measure_ratios(model, [batch])[0].mean
    with torch.no_grad():
        model.blocks[0].gamma_1.mul_(2)
    assert measure_ratios(model, [batch])[0].mean == pytest.approx(2 * before, rel=1e-5)


def test_a_block_that_adds_its_branches_otherwise_is_noticed() -> None:
    model = tiny_model()
    model.blocks[1].register_forward_hook(lambda module, inputs, output: 1.5 * output)
    with pytest.raises(AssertionError, match="self-attention layer 2 adds its branches in another way"):
        measure_ratios(model, [images()])
