"""Each figure from a file of weights to values and picture; what cannot be analysed is told in a line."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from analysed_models import images, tiny_model, tiny_subject
from PIL import Image
from typer.testing import CliRunner

from cait_dist.analysis import AnalysisError, figures, subject_of_file
from cait_dist.analysis.images import choose_images, in_batches
from cait_dist.analysis.residual_norms import measure_ratios
from cait_dist.analysis.weights_of_layers import head_mixing, layer_scales
from cait_dist.cli import app
from cait_dist.models.weights import save_weights


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three photographs of noise, one of them no square."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate(((12, 12), (24, 18), (12, 12))):
        noise = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"picture-{number}.png")
    # Not a formula.
    (folder / "picture-2.png").rename(folder / "picture-2 $_$.png")
    return folder


def plain(batches: Iterable[Any], total: int) -> Iterable[Any]:
    return batches


def test_a_file_tells_its_model(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    model = subject.model(torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(model(images()), tiny_model()(images()))
    assert subject.folder == tmp_path / "tiny-analysis"


def test_images_are_shown_as_the_model_expects_them(tmp_path: Path, pictures: Path) -> None:
    subject = tiny_subject(tmp_path)
    chosen = choose_images(subject, [pictures], 2, 12)
    assert [image.name for image in chosen] == ["picture-0.png", "picture-1.png"]
    pixels = torch.from_numpy(np.array(Image.open(pictures / "picture-0.png"))).permute(2, 0, 1)
    assert torch.equal(chosen[0].pixels, pixels)
    (batch,) = in_batches(chosen, subject, 8, torch.device("cpu"))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(batch[0], (pixels / 255 - mean) / std)


def test_layer_scale_is_that_of_the_weights(tmp_path: Path) -> None:
    model = tiny_model()
    scales = layer_scales(tiny_subject(tmp_path))
    assert [(s.stage[0], s.layer, s.branch[0]) for s in scales] == [
        *((("s", n, b)) for n in (1, 2, 3) for b in "af"),
        *((("c", n, b)) for n in (1, 2) for b in "af"),
    ]
    gammas = [g for blocks in (model.blocks, model.blocks_token_only) for b in blocks for g in (b.gamma_1, b.gamma_2)]
    for scale, gamma in zip(scales, gammas, strict=True):
        values = gamma.detach().double()
        assert scale.mean == pytest.approx(float(values.abs().mean()))
        assert scale.negative == pytest.approx(float((values < 0).double().mean()))
        q = torch.quantile(values.abs(), torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64))
        assert scale.quantiles == pytest.approx(q.tolist())


def test_mixing_matrices_are_those_of_the_weights(tmp_path: Path) -> None:
    for (before, after), block in zip(head_mixing(tiny_subject(tmp_path)), tiny_model().blocks, strict=True):
        np.testing.assert_array_equal(before, block.attn.proj_l.weight.detach().double().numpy())
        np.testing.assert_array_equal(after, block.attn.proj_w.weight.detach().double().numpy())


def test_every_figure_writes_values_and_the_same_picture_each_time(tmp_path: Path, pictures: Path) -> None:
    subject = tiny_subject(tmp_path)
    works: dict[str, Callable[[Path], list[Path]]] = {
        "residual-norms": lambda out: figures.residual_norms(subject, out, [pictures], 3, 2, plain),
        "attention-maps": lambda out: figures.attention_maps(subject, out, [pictures], 3, 2, plain),
        "layer-scale": lambda out: figures.layer_scale(subject, out),
        "head-mixing": lambda out: figures.mixing(subject, out),
    }
    for name, work in works.items():
        first = work(tmp_path / "a")
        again = work(tmp_path / "b") if name != "attention-maps" else first  # slow to draw, and a plain PNG
        assert [path.stem for path in first] == [name, name]
        for one, other in zip(first, again, strict=True):
            if one.suffix != ".npz":
                assert one.read_bytes() == other.read_bytes(), one
            if one.suffix == ".svg":
                assert ElementTree.parse(one).getroot().tag.endswith("svg")
                assert one.stat().st_size < 300_000
    values = json.loads((tmp_path / "a" / "residual-norms.json").read_text())
    assert values["file"] == str(tmp_path / "tiny.safetensors")
    shown = in_batches(choose_images(subject, [pictures], 3, 12), subject, 8, torch.device("cpu"))
    expected = measure_ratios(tiny_model(), shown)
    assert [layer["mean"] for layer in values["layers"]] == pytest.approx([ratio.mean for ratio in expected], rel=1e-5)
    sheet = Image.open(tmp_path / "a" / "attention-maps.png").convert("RGB")
    assert sheet.height > sheet.width / 2
    with np.load(tmp_path / "a" / "attention-maps.npz") as kept:
        assert kept["maps"].shape == (3, 2, 3, 3, 3)
        assert kept["images"].tolist() == ["picture-0.png", "picture-1.png", "picture-2 $_$.png"]


def test_the_command_writes_beside_the_file_and_says_what(tmp_path: Path, pictures: Path) -> None:
    tiny_subject(tmp_path)
    arguments = ["analyse", "residual-norms", str(tmp_path / "tiny.safetensors"), "--images", str(pictures)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    written = [tmp_path / "tiny-analysis" / f"residual-norms.{suffix}" for suffix in ("json", "svg")]
    assert result.stdout.splitlines() == [f"wrote {path}" for path in written]
    assert json.loads(written[0].read_text())["images"] == 3


def test_what_cannot_be_analysed_is_told_in_a_line(tmp_path: Path, pictures: Path) -> None:
    subject = tiny_subject(tmp_path)
    (pictures / "text.png").write_text("no image")
    for places, message in (
        ([], "pass files or folders with --images"),
        ([tmp_path / "absent.png"], "absent.png: cannot be read"),
        ([pictures / "text.png"], "text.png: is no image"),
        ([tmp_path / "empty"], "empty: holds no image"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(AnalysisError, match=message) as caught:
            figures.residual_norms(subject, tmp_path / "out", places, 3, 2, plain)
        assert "\n" not in str(caught.value)
    save_weights(tiny_model(talking_heads=False), tmp_path / "apart.safetensors", format="own")
    apart = subject_of_file(tmp_path / "apart.safetensors")
    with pytest.raises(AnalysisError, match="heads are not mixed"):
        figures.mixing(apart, tmp_path / "out")
    with pytest.raises(AnalysisError, match="pass the run that it was exported from"):
        apart.model(torch.device("cpu"))
    save_weights(tiny_model(class_token="from_start"), tmp_path / "early.safetensors", format="own")
    with pytest.raises(AnalysisError, match="so the model cannot be told from it"):
        subject_of_file(tmp_path / "early.safetensors").model(torch.device("cpu"))
    plain_branches = tiny_model(residual="pre_norm", layer_scale_init=None)
    save_weights(plain_branches, tmp_path / "plain.safetensors", format="own")
    with pytest.raises(AnalysisError, match="no LayerScale"):
        figures.layer_scale(subject_of_file(tmp_path / "plain.safetensors"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
