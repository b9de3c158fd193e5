"""Stochastic depth by explicit masks: what is dropped, what is kept, who decides; and wrapping blocks from outside."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from timm_reference import fill_with_large_values
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cait_dist.models import Cait, create_model
from cait_dist.ops import draw_keep_mask

TINY = {"image_size": 48, "embed_dim": 24, "num_heads": 2, "depth": 3, "num_classes": 5}
RATE = 0.25


def tiny_model(**overrides) -> Cait:
    model = create_model("cait_xxs24_224", **(TINY | {"drop_path_rate": RATE} | overrides)).double()
    fill_with_large_values(model)
    return model


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def tokens(batch: int = 4) -> Tensor:
    return torch.randn(batch, 9, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def all_kept(batch: int = 4) -> Tensor:
    return torch.ones(batch, TINY["depth"], 2, dtype=torch.bool)


def assert_same(a: Tensor, b: Tensor) -> None:
    """Equal but for the rounding of products over another number of samples."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_dropped_branch_is_exactly_the_identity_for_that_sample_alone():
    block, x = tiny_model().blocks[0], tokens()
    kept = torch.tensor([True, False, True, False])
    y = block(x, kept, kept)
    assert torch.equal(y[~kept], x[~kept])
    assert_same(y[kept], block(x, torch.ones_like(kept), torch.ones_like(kept))[kept])


def test_dropped_branches_send_no_gradient_to_their_parameters():
    block = tiny_model().blocks[0]
    none, every = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    block(tokens(), none, every).square().sum().backward()
    assert not block.attn.qkv.weight.grad.any()
    assert not block.gamma_1.grad.any()
    assert block.gamma_2.grad.all()


@pytest.mark.parametrize("branch", ["attention", "feed-forward"])
def test_a_kept_branch_is_divided_by_its_probability(branch):
    """So the expectation over masks equals evaluation: (1 - p) · kept + p · dropped = nothing dropped."""
    block, x = tiny_model().blocks[0], tokens()
    every, none = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    if branch == "attention":  # the other branch is always dropped: it is not linear in this one
        kept, dropped, full = (
            block(x, every, none),
            block(x, none, none),
            x + block.gamma_1 * block.attn(block.norm1(x)),
        )
    else:
        kept, dropped, full = block(x, None, every), block(x, None, none), block(x, None, None)
    torch.testing.assert_close((1 - RATE) * kept + RATE * dropped, full, rtol=1e-12, atol=1e-12)


def test_each_entry_of_the_mask_governs_its_sample_block_and_branch():
    model, reference = tiny_model(), tiny_model()
    keep = all_kept()
    keep[1, 2, 0] = keep[3, 0, 1] = False
    with torch.no_grad():
        y = model(images(), keep)
        untouched = model(images(), all_kept())
        reference.blocks[2].gamma_1.zero_()
        assert_same(y[1], reference(images(), all_kept())[1])
        reference = tiny_model()
        reference.blocks[0].gamma_2.zero_()
        assert_same(y[3], reference(images(), all_kept())[3])
    assert_same(y[[0, 2]], untouched[[0, 2]])


def test_without_a_mask_the_model_draws_one_per_sample():
    model = tiny_model()
    torch.manual_seed(5)
    y = model(images())
    torch.manual_seed(5)
    keep = draw_keep_mask(4, TINY["depth"], RATE)
    assert 0 < keep.sum() < keep.numel()
    assert torch.equal(y, model(images(), keep))


@pytest.mark.parametrize("quiet", ["evaluation", "rate 0"])
def test_masks_are_ignored_where_nothing_is_dropped(quiet):
    model = tiny_model().eval() if quiet == "evaluation" else tiny_model(drop_path_rate=0.0)
    assert torch.equal(model(images(), ~all_kept()), model(images()))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(batch, depth, 2\) = \(4, 3, 2\), got torch.bool of shape \(4, 2\)"):
        tiny_model()(images(), all_kept()[:, 0])


def test_the_rate_is_the_same_in_every_block():
    assert {block.drop_path_rate for block in tiny_model().blocks} == {RATE}


def test_the_class_attention_stage_never_drops():
    block = tiny_model(drop_path_rate=0.9, drop_rate=0.9, attn_drop_rate=0.9).blocks_token_only[0]
    cls, patches = tokens()[:, :1], tokens()[:, 1:]
    in_training = block.train()(patches, cls)
    assert torch.equal(in_training, block.eval()(patches, cls))


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate"])
def test_dropout_acts_in_training_only(rate):
    model = tiny_model(drop_path_rate=0.0, **{rate: 0.5})
    assert not torch.equal(model(images()), model(images()))
    plain = tiny_model(drop_path_rate=0.0).eval()
    assert torch.equal(model.eval()(images()), plain(images()))


def test_dropout_sits_after_embedding_projection_and_both_mlp_layers(monkeypatch):
    """As in the code of the authors; the attention map has a rate of its own, the class-attention stage none."""
    calls = []
    monkeypatch.setattr(F, "dropout", lambda x, p, training: (calls.append((p, tuple(x.shape))), x)[1])
    tiny_model(drop_rate=0.1, attn_drop_rate=0.2)(images(), all_kept())
    token, hidden, maps = (4, 9, 24), (4, 9, 96), (4, 2, 9, 9)
    block = [(0.2, maps), (0.1, token), (0.1, hidden), (0.1, token)]
    assert [(p, shape) for p, shape in calls if p > 0] == [(0.1, token), *block * TINY["depth"]]


@pytest.mark.parametrize("keep", [None, [True, False, True, True], [False] * 4])
def test_a_block_compiles_into_one_graph_as_long_as_nothing_is_dropped(keep):
    """What a mask keeps is only known when it is looked at: there the graph is cut."""
    block = tiny_model().blocks[0]
    masks = (None, None) if keep is None else (torch.tensor(keep), torch.tensor(keep))
    torch.compiler.reset()
    compiled = torch.compile(block, backend="eager", fullgraph=keep is None)
    assert torch.equal(compiled(tokens(), *masks), block(tokens(), *masks))


@pytest.mark.parametrize("wrapped", ["blocks", "attention"])
def test_blocks_and_attention_can_be_checkpointed_from_outside(wrapped):
    """Recomputation gives the same gradients, bit for bit: the mask is an argument, not a draw."""
    torch.manual_seed(6)
    keep = draw_keep_mask(4, TINY["depth"], RATE)
    plain, wrapped_model = tiny_model(), tiny_model()
    for block in wrapped_model.blocks:
        module = block if wrapped == "blocks" else block.attn
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    for model in (plain, wrapped_model):
        model(images(), keep).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), wrapped_model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
