"""Every configuration that ships is valid and makes a network, and so is every command that the files and docs name."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from timm_reference import import_timm_cait

from cait_dist.config import RunConfig, load_config
from cait_dist.models import Architecture, Cait, architecture
from cait_dist.planning.counting.flops import count_params
from launch.sweep_axes import members, split_arguments

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "recipe")
ABLATIONS = [path for path in CONFIGS if "ablations" in path.parts]
COMMAND = re.compile(r"cait (train|sweep) (configs/\S+\.yaml)([^`\n]*)")


def architecture_of(config: RunConfig) -> Architecture:
    model = config.model
    return architecture(model.name, num_classes=model.num_classes or 1000, **model.overrides)


def commands(text: str) -> list[tuple[str, str, list[str]]]:
    """Command, configuration and settings; options take no part in what is computed."""
    found = COMMAND.findall(text)
    return [(command, file, [word for word in shlex.split(rest) if "=" in word]) for command, file, rest in found]


def configurations(command: str, file: str, arguments: list[str]) -> list[RunConfig]:
    fixed, axes = split_arguments(arguments)
    if command == "train":
        assert not axes
        return [load_config(ROOT / file, fixed).config]
    return [load_config(ROOT / file, [*fixed, *member.settings]).config for member in members(axes)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_configuration_that_ships_is_valid_and_makes_a_network(path):
    config = load_config(path).config
    assert architecture_of(config).num_patches > 0
    assert re.fullmatch(r"[a-z0-9_]+", config.name)


def test_recipes_are_valid_once_they_have_a_name():
    for path in (ROOT / "configs" / "recipe").rglob("*.yaml"):
        load_config(path, ["name=n", "data.path=d"])


def test_every_run_has_a_name_of_its_own():
    names = [load_config(path).config.name for path in CONFIGS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_says_how_to_start_it_and_that_works(path):
    found = commands(path.read_text())
    if path.parent.name == "ablations":
        assert not found, "where ablations begin is no run of its own"
    else:
        assert found
    for command, file, arguments in found:
        assert ROOT / file == path
        for config in configurations(command, file, arguments):
            assert architecture_of(config).num_patches > 0


def test_every_folder_has_a_form_for_digits():
    folders = [path for path in (ROOT / "configs" / "ablations").iterdir() if path.is_dir()]
    assert len(folders) == 4
    for folder in folders:
        assert architecture_of(load_config(folder / "digits.yaml").config).image_size == 24


def test_every_command_of_the_page_on_the_paper_works():
    found = commands((ROOT / "docs" / "paper.md").read_text())
    named = {ROOT / file for _, file, _ in found}
    assert {path for path in ABLATIONS if path.parent.name != "ablations"} <= named
    for command, file, arguments in found:
        assert configurations(command, file, arguments)


def test_ablations_begin_at_timms_deit_small():
    import_timm_cait()
    import timm  # noqa: PLC0415

    arch = architecture_of(load_config(ROOT / "configs/ablations/deit_s.yaml").config)
    with torch.device("meta"):
        theirs, ours = timm.create_model("deit_small_patch16_224"), Cait(arch)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert count_params(arch).total == sum(p.numel() for p in theirs.parameters())
    assert arch.num_heads == theirs.blocks[0].attn.num_heads


def test_layer_scale_follows_the_depth_of_table_1():
    epsilon = {}
    for depth in (12, 18, 24, 36):
        path = ROOT / f"configs/ablations/table1_stabilisation/depth_{depth}.yaml"
        config = load_config(path, ["model.residual=layer_scale"]).config
        epsilon[depth] = architecture_of(config).layer_scale_init, config.model.drop_path_rate
    assert epsilon == {12: (0.1, 0.05), 18: (0.1, 0.1), 24: (1e-5, 0.2), 36: (1e-6, 0.25)}


def test_the_path_ends_at_cait_s36():
    end, published = (
        load_config(ROOT / "configs" / name).config for name in ("ablations/path/7_epochs.yaml", "cait_s36_224.yaml")
    )
    assert architecture_of(end) == architecture_of(published)
    assert end.model_dump(exclude={"name", "model"}) == published.model_dump(exclude={"name", "model"})
