"""Compiled branches compute what plain ones do, whatever surrounds them, and are compiled once for all blocks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from cait_dist.models import Cait, create_model
from cait_dist.training.activation_checkpointing import apply_activation_checkpointing
from cait_dist.training.compilation import compile_branches, keep_compiled_in

DEPTH = 4


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(image_size: int = 56, **options: object) -> Cait:
    """196 tokens of 56 px, enough for the attention that is an operator of its own."""
    torch.manual_seed(0)
    shape = {"patch_size": 4, "embed_dim": 32, "num_heads": 4, "depth": DEPTH, "num_classes": 10}
    return create_model("cait_xxs24_224", image_size=image_size, layer_scale_init=0.5, **shape, **options)


def pass_through(model: Cait, size: int, keeps: list[Tensor | None], autocast: bool) -> list[Tensor]:
    """Logits and gradients after a forward and backward pass per mask."""
    generator = torch.Generator().manual_seed(1)
    seen = []
    for keep in keeps:
        images = torch.randn(4, 3, size, size, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(images, keep)
        logits.float().square().sum().backward()
        seen.append(logits.detach().float())
    return seen + [p.grad for p in model.parameters()]


def masks(count: int) -> list[Tensor]:
    """Some blocks keep all samples, some two or three of four."""
    draws = torch.rand(count, 4, DEPTH, 2, generator=torch.Generator().manual_seed(2))
    keep = draws > 0.3
    keep[:, :2] = True
    return list(keep)


@pytest.mark.parametrize(
    ("size", "policy", "dropping"), [(56, "none", True), (28, "attention", True), (56, "block", False)]
)
def test_passes_equal_those_of_the_plain_model(size: int, policy: str, dropping: bool) -> None:
    keeps = masks(2) if dropping else [None]
    models = [build(size, drop_path_rate=0.3 if dropping else 0.0) for _ in range(2)]
    for model in models:
        apply_activation_checkpointing(model, policy)
    compile_branches(models[1], backend="aot_eager")
    plain, compiled = (pass_through(model, size, keeps, autocast=False) for model in models)
    for a, b in zip(compiled, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_all_blocks_share_what_is_compiled() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    model = build(28, drop_path_rate=0.3)
    compile_branches(model, backend=counter)
    pass_through(model, 28, masks(3), autocast=False)
    compiled = counter.frame_count
    assert compiled < 2 * DEPTH
    pass_through(model, 28, masks(8)[3:], autocast=False)
    assert counter.frame_count == compiled


def test_by_inductor_under_autocast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    models = [build(56) for _ in range(2)]
    compile_branches(models[1])
    plain, compiled = (pass_through(model, 56, [None], autocast=True) for model in models)
    for a, b in zip(compiled, plain, strict=True):
        assert (a - b).norm() <= 0.03 * b.norm() + 1e-6
    assert any(tmp_path.rglob("*.so"))


def test_what_is_compiled_is_kept_where_the_user_says_or_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    for folder in (tmp_path / "first", tmp_path / "second"):
        keep_compiled_in(folder)
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "first")
