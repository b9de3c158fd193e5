"""Weights on disk: formats of timm and deit, other resolutions, other heads, and files that must be refused."""

import argparse
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from timm_reference import timm_cait
from torch import Tensor

from cait_dist.models import Cait, create_model
from cait_dist.models.weights import load_weights, resize_pos_embed, save_weights

TINY = {"image_size": 64, "embed_dim": 24, "num_heads": 2, "depth": 2, "num_classes": 5}


def tiny_model(seed: int, **overrides) -> Cait:
    torch.manual_seed(seed)
    return create_model("cait_xxs24_224", **(TINY | overrides))


def assert_same_weights(a: Cait, b: Cait, but: tuple[str, ...] = ()) -> None:
    for name, value in a.state_dict().items():
        assert name in but or torch.equal(value, b.state_dict()[name]), name


def write_deit(path: Path, weights: dict[str, Tensor], **beside) -> Path:
    """The layout of the published files, written by hand."""
    torch.save({"model": {f"module.{name}": t for name, t in weights.items()}, **beside}, path)
    return path


def bicubic_by_hand(grid: np.ndarray, new: int) -> np.ndarray:
    """Cubic convolution (a = -0.75) with half-pixel centres and repeated borders, one axis after the other."""

    def weights(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
        d = np.abs(distance)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))

    old = grid.shape[0]
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[i, np.clip(tap, 0, old - 1)] += weights(np.array(centre - tap))
    return np.einsum("ia,jb,abd->ijd", matrix, matrix, grid)


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 28), (24, 14), (4, 7), (5, 5)])
def test_position_embedding_is_resized_as_by_hand(old, new):
    pos_embed = torch.randn(1, old * old, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    resized = resize_pos_embed(pos_embed, new)
    expected = bicubic_by_hand(pos_embed.numpy().reshape(old, old, 6), new).reshape(1, new * new, 6)
    np.testing.assert_allclose(resized.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_resizing_keeps_a_narrow_dtype_but_computes_wide():
    pos_embed = torch.randn(1, 16, 6).bfloat16()
    resized = resize_pos_embed(pos_embed, 7)
    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, resize_pos_embed(pos_embed.float(), 7).bfloat16())


def test_only_square_grids_are_resized():
    with pytest.raises(ValueError, match="15 patches is no square grid"):
        resize_pos_embed(torch.zeros(1, 15, 6), 4)


@pytest.mark.parametrize(("kind", "name"), [("timm", "w.safetensors"), ("deit", "w.pth")])
def test_round_trip_is_exact(kind, name, tmp_path):
    source, target = tiny_model(0), tiny_model(1)
    save_weights(source, tmp_path / name, format=kind)
    report = load_weights(target, tmp_path / name)
    assert_same_weights(source, target)
    assert report.loaded == len(source.state_dict())
    assert report.resized_pos_embed is None
    assert report.dropped_head is None
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_saved_files_have_the_names_of_timm_and_deit(tmp_path):
    model = tiny_model(0)
    save_weights(model.state_dict(), tmp_path / "w.safetensors")
    save_weights(model, tmp_path / "w.pth", format="deit")
    timm_cait(model.arch).load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    deit = torch.load(tmp_path / "w.pth", weights_only=True)
    assert list(deit) == ["model"]
    assert {name.removeprefix("module.") for name in deit["model"]} == set(model.state_dict())
    assert all(name.startswith("module.") for name in deit["model"])


@pytest.mark.parametrize(
    "beside",
    [{}, {"epoch": 3, "optimizer": {"lr": 1e-3}, "args": argparse.Namespace(lr=1e-3)}],
    ids=["alone", "with args"],
)
def test_deit_files_load(beside, tmp_path):
    source, target = tiny_model(0), tiny_model(1)
    path = write_deit(tmp_path / "XXS24_224.pth", source.state_dict(), **beside)
    load_weights(target, path)
    assert_same_weights(source, target)


def test_bare_state_dicts_load(tmp_path):
    source, target = tiny_model(0), tiny_model(1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert_same_weights(source, target)


def test_deit_files_load_at_another_resolution(tmp_path):
    source, target = tiny_model(0), tiny_model(1, image_size=96)
    report = load_weights(target, write_deit(tmp_path / "w.pth", source.state_dict()))
    assert report.resized_pos_embed == (4, 6)
    assert "4x4 to 6x6" in str(report)
    assert torch.equal(target.pos_embed, resize_pos_embed(source.pos_embed, 6))
    assert_same_weights(source, target, but=("pos_embed",))


def test_a_head_with_other_classes_is_left_out_and_reported(tmp_path):
    source, target, fresh = tiny_model(0), tiny_model(1, num_classes=9), tiny_model(1, num_classes=9)
    path = write_deit(tmp_path / "w.pth", source.state_dict())
    report = load_weights(target, path)
    assert report.dropped_head == (5, 9)
    assert report.loaded == len(source.state_dict()) - 2
    assert "head NOT loaded: 5 classes in the file, 9 in the model" in str(report)
    assert_same_weights(source, target, but=("head.weight", "head.bias"))
    assert torch.equal(target.head.weight, fresh.head.weight)
    with pytest.raises(ValueError, match=r"of another shape: head\.weight \(5, 24\) instead of \(9, 24\)"):
        load_weights(target, path, strict_head=True)


def test_the_model_keeps_its_dtype(tmp_path):
    source, target = tiny_model(0), tiny_model(1).bfloat16()
    save_weights(source, tmp_path / "w.safetensors")
    load_weights(target, tmp_path / "w.safetensors")
    assert_same_weights(source.bfloat16(), target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("norm.bias"), r"1 missing from the file: norm\.bias"),
        (lambda w: w.update(dist_token=torch.zeros(1)), "1 unknown to the model: dist_token"),
        (lambda w: w.update({"norm.bias": torch.zeros(3)}), r"norm\.bias \(3,\) instead of \(24,\)"),
        (lambda w: [w.pop(k) for k in list(w) if k.startswith("blocks.1.")], "18 missing from the file: .* and 6 more"),
    ],
)
def test_a_misfit_is_refused_by_name_and_leaves_the_model_alone(change, message, tmp_path):
    weights, target, fresh = tiny_model(0).state_dict(), tiny_model(1), tiny_model(1)
    change(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"does not fit the model; is it the same variant.*{message}"):
        load_weights(target, tmp_path / "w.safetensors")
    assert_same_weights(target, fresh)


class Bomb:
    """Runs a shell command when unpickled: what a hostile file does."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(writer, tmp_path):
    path, proof = tmp_path / "w.pth", tmp_path / "proof"
    content = {"model": tiny_model(0).state_dict(), "extra": Bomb(proof)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    with pytest.raises(ValueError, match=r"w\.pth is a pickle that would run \S+ when loaded; refused.*safetensors"):
        load_weights(tiny_model(1), path)
    assert not proof.exists()
    if writer == "pickle":  # the bomb is live: a reader less careful would have set it off
        pickle.loads(path.read_bytes())
        assert proof.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_file_is_refused_by_name(name, damage, tmp_path):
    path = tmp_path / name
    save_weights(tiny_model(0), path, format="timm" if name.endswith("safetensors") else "deit")
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"no weights at all" * 99, "empty": b""}[damage])
    with pytest.raises(ValueError, match=f"{name} is damaged.*download or export it again"):
        load_weights(tiny_model(1), path)


def test_missing_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no weights at .*w\.pth; check the path"):
        load_weights(tiny_model(0), tmp_path / "w.pth")
    (tmp_path / "w.npz").touch()
    with pytest.raises(ValueError, match=r"w\.npz is neither \.safetensors nor"):
        load_weights(tiny_model(0), tmp_path / "w.npz")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds no state dict"):
        load_weights(tiny_model(0), tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("w.pth", "timm", r"'timm' is written to a \.safetensors file, got .*w\.pth"),
        ("w.safetensors", "deit", r"'deit' is written to a \.pth file"),
        ("w.pth", "keras", "unknown format 'keras'; choose"),
    ],
)
def test_saving_checks_format_and_name(name, kind, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_weights(tiny_model(0), tmp_path / name, format=kind)
    assert list(tmp_path.iterdir()) == []
