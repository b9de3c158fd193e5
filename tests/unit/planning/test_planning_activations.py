"""Counted activations against what autograd keeps, and against the live bytes of a step."""

import contextlib
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cait_dist.models import Cait, architecture, create_model
from cait_dist.ops import override_backend
from cait_dist.ops.talking_heads import fused as ops_fused
from cait_dist.ops.talking_heads import native as ops_native
from cait_dist.planning.counting.activation_memory import count_activations
from cait_dist.planning.counting.numerics import Numerics, numerics
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing

WIDTHS = {"fp32": numerics("fp32", 0), "autocast": numerics("bf16", 0), "bf16": numerics("bf16", 1)}
SMALL = {"image_size": 96, "depth": 4}
MODELS = {
    "xxs": ("cait_xxs24_224", SMALL),
    "xs at 128": ("cait_xs24_384", {"image_size": 128, "depth": 2}),
    "s at 112": ("cait_s24_224", {"image_size": 112, "depth": 2}),
    "fixup": ("cait_xxs24_224", SMALL | {"residual": "fixup"}),
    "token from the start": ("cait_xxs24_224", SMALL | {"residual": "pre_norm", "class_token": "from_start"}),
    "plain heads": ("cait_xxs24_224", SMALL | {"talking_heads": False}),
    "pooled, no norm": ("cait_xxs24_224", SMALL | {"class_token": "average_pooling", "residual": "rezero"}),
    "dropout": ("cait_xxs24_224", SMALL | {"drop_rate": 0.1}),
    "dropout on maps": ("cait_xxs24_224", SMALL | {"attn_drop_rate": 0.1}),
    "dropped paths": ("cait_xxs24_224", SMALL | {"drop_path_rate": 0.25}),
}
IMAGES = 4


def build(name: str, overrides: dict[str, Any], kind: str, policy: str, device: str) -> Cait:
    with torch.device(device):
        model = create_model(name, **overrides)
    if kind == "bf16":
        model.bfloat16()
    apply_activation_checkpointing(model, policy)
    return model


def loss_of(model: Cait, kind: str, images: torch.Tensor) -> torch.Tensor:
    arch = model.arch
    keep = torch.ones(len(images), arch.depth, 2, dtype=torch.bool)
    keep[: round(arch.drop_path_rate * len(images))] = False  # the expected share, exactly
    autocast = torch.autocast("cpu", torch.bfloat16) if kind == "autocast" else contextlib.nullcontext()
    with autocast:
        logits = model(images, keep if arch.drop_path_rate else None)
    return torch.nn.functional.cross_entropy(logits.float(), torch.full_like(logits, 0.1).float())


def images_for(model: Cait) -> torch.Tensor:
    arch = model.arch
    return torch.zeros(IMAGES, arch.in_chans, arch.image_size, arch.image_size, device=model.pos_embed.device)


def kept_by_autograd(model: Cait, kind: str) -> int:
    """Bytes of every storage that autograd keeps, parameters left out."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)  # alive, so that no other gets its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, kind, images_for(model))
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize("model", MODELS)
def test_counted_activations_are_what_autograd_keeps(model: str, kind: str) -> None:
    name, overrides = MODELS[model]
    for backend in ("eager", "chunked", "native"):
        for policy in ("none", "attention", "block", "every-2"):
            with override_backend(backend):
                found = kept_by_autograd(build(name, overrides, kind, policy, "cpu"), kind)
            counted = count_activations(architecture(name, **overrides), WIDTHS[kind], policy, backend, "cpu")
            assert counted.kept(IMAGES) == pytest.approx(found, rel=0.02), (backend, policy)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "cait_s36_384", "cait_m48_448"])
def test_whole_variants_are_counted_on_the_meta_device(name: str) -> None:
    for kind in ("fp32", "bf16"):
        with override_backend("eager"):
            found = kept_by_autograd(build(name, {}, kind, "none", "meta"), kind)
        counted = count_activations(architecture(name), WIDTHS[kind], "none", "eager")
        assert counted.kept(IMAGES) == pytest.approx(found, rel=0.02)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made and not yet gone."""

    def __init__(self, before: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._known:
                storage = tensor.untyped_storage()
                self._known[key] = storage.nbytes()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._gone, key)
        self.peak = max(self.peak, self.live)
        return out

    def _gone(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize(
    ("name", "overrides"),
    [("cait_xxs24_224", {"image_size": 192, "depth": 4}), ("cait_s24_224", {"image_size": 112, "depth": 2})],
    ids=["mostly activations", "mostly weights"],
)
def test_the_peak_is_that_of_the_live_bytes_of_a_step(name: str, overrides: dict[str, Any], kind: str) -> None:
    for backend, policy in itertools.product(("eager", "chunked", "native"), ("none", "attention", "block", "every-2")):
        model = build(name, overrides, kind, policy, "cpu")
        images = images_for(model)
        with override_backend(backend), LiveBytes([images, *model.parameters()]) as bytes_:
            loss_of(model, kind, images).backward()
        gradient = model.pos_embed.element_size()
        counted = count_activations(model.arch, WIDTHS[kind], policy, backend, "cpu", gradient)
        assert 0.86 * counted.peak(IMAGES) < bytes_.peak < 1.02 * counted.peak(IMAGES), (backend, policy)


def test_the_workspace_of_the_attention_is_bounded() -> None:
    counted = count_activations(architecture("cait_m48_448"), WIDTHS["bf16"], "block", "chunked")
    maps, tokens = 4 * 2 * 16 * 784**2, (4 * 2 + 2 * 4 + 2) * 784 * 768
    assert counted.workspace(1) == maps + tokens
    assert counted.workspace(1000) == 256 * 2**20 + 3 * tokens


def test_stochastic_depth_keeps_its_share() -> None:
    whole, half = (
        count_activations(architecture("cait_m48_448", drop_path_rate=rate), WIDTHS["bf16"], "none", "eager")
        for rate in (0.0, 0.5)
    )
    assert half.kept_per_image == pytest.approx(0.5 * whole.kept_per_image, rel=0.05)


def test_backends_that_keep_no_maps_differ_in_the_maps_they_work_on() -> None:
    arch = architecture("cait_m48_448")
    fused, native, chunked = (
        count_activations(arch, WIDTHS["bf16"], "none", backend) for backend in ("fused", "native", "chunked")
    )
    assert fused.kept_per_image == native.kept_per_image == chunked.kept_per_image
    one_by_one = ops_native.WORKSPACE_BYTES + (4 * 2 + 2 * 4 + 2) * 784 * 768
    assert native.workspace(1) == native.workspace(1000) == one_by_one
    small = count_activations(architecture("cait_xxs24_224"), WIDTHS["fp32"], "none", "native", "cpu")
    assert small.workspace(1) == small.workspace(1000) == 2 * 4 * 4 * 196**2 + 3 * 4 * 196 * 192
    narrow = count_activations(architecture("cait_xxs24_224"), WIDTHS["bf16"], "none", "native", "cpu")
    each = 2 * 2 * 4 * 196**2 + 7 * 2 * 196 * 192
    assert [narrow.workspace(images) for images in (1, 3, 1000)] == [each, 3 * each, 3 * each]
    dropped = count_activations(architecture("cait_m48_448", attn_drop_rate=0.1), WIDTHS["bf16"], "none", "fused")
    assert dropped.kept_per_image == fused.kept_per_image
    maps, tokens = 2 * 2 * 16 * 784**2, 7 * 2 * 784 * 768
    assert fused.workspace(1) == maps + tokens
    assert dropped.workspace(1) == 1.5 * maps + tokens
    at_once = ops_fused.WORKSPACE_BYTES // maps
    assert fused.workspace(1000) == ops_fused.WORKSPACE_BYTES + at_once * tokens


def test_recomputation_keeps_less_and_makes_up_for_it_in_one_block_at_a_time() -> None:
    arch, width = architecture("cait_m48_448"), Numerics(2, 2)
    policies = ("none", "every-2", "attention", "block")
    counted = [count_activations(arch, width, policy, "eager") for policy in policies]
    assert sorted((c.kept(8) for c in counted), reverse=True) == [c.kept(8) for c in counted]
    assert counted[0].peak(8) == pytest.approx(counted[0].kept(8), rel=0.02)
    assert counted[3].peak(8) > 1.5 * counted[3].kept(8)
