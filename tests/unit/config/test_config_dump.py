"""What is written out loads back; flat parameters, differences and listings say what is there."""

import json
from pathlib import Path

import pytest
import yaml

from cait_dist.config import RunConfig, config_to_yaml, describe, diff, flatten, load_config, schema_help
from cait_dist.config.fields import schema_fields

CONFIGS = {
    "defaults": {},
    "everything": {
        "runs_dir": "/scratch/me/runs: 1",
        "seed": 2**32 - 1,
        "model": {"name": "cait_m48_448", "layer_scale_init": 1e-6, "init_from": "w/a #1.safetensors", "depth": 2},
        "data": {"path": "1e-3", "order": "block", "workers": 0},
        "augment": {"crop_ratio": (0.1, 1 / 3), "hflip": 0},
        "optimizer": {"lr": 1e-300, "lr_reference_batch": 512, "betas": (0.9, 0.95), "clip_grad": 1.0},
        "schedule": {"warmup_epochs": 0},
        "training": {"epochs": 0.1, "zero": {"stage": 3}, "ema_decay": 0.99996, "activation_checkpointing": "every-2"},
        "evaluation": {"weights": ("raw", "ema"), "sets": ({"name": "val"}, {"name": "v2", "split": "no"})},
        "tracking": {"mlflow": False, "uri": "sqlite:///a.db", "experiment": "null"},
    },
    "no sets, odd words": {
        "evaluation": {"sets": ()},
        "tracking": {"experiment": "1:30\n\"ü\" 'x'"},
        "data": {"path": "~/d"},
    },
}  # fmt: skip


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request):
    return RunConfig(**({"name": "off", "data": {"path": "p"}} | request.param))


def test_a_dump_loads_back_to_an_equal_configuration(config, write):
    text = config_to_yaml(config)
    loaded = load_config(write("config.yaml", text))
    assert loaded.config == config
    assert config_to_yaml(loaded.config) == text
    assert "default" not in loaded.origins.values(), "a resolved file leaves nothing to defaults"


def test_a_dump_says_the_same_to_other_programs(config):
    assert yaml.safe_load(config_to_yaml(config)) == json.loads(config.model_dump_json())


def test_a_dump_keeps_the_order_of_the_schema_and_one_line_for_each_value(config):
    lines = config_to_yaml(config).splitlines()
    names = [key.rpartition(".")[2] for key, field in schema_fields().items() if not field.in_list]
    assert [line.split(":")[0].strip() for line in lines] == names


def test_a_dump_is_readable(minimal):
    text = config_to_yaml(load_config(minimal, ["optimizer.betas=[0.9, 0.95]", "evaluation.sets=[{name: v2}]"]).config)
    assert text.startswith("name: demo\nruns_dir: runs\nseed: 0\nmodel:\n  name: cait_xxs24_224\n  image_size: null\n")
    for line in (
        "  path: shards",
        "  betas: [0.9, 0.95]",
        "  eps: 1.0e-08",
        "  sets: [{name: v2, split: val, path: null, kind: top1, subset: null}]",
    ):
        assert f"\n{line}\n" in text


def test_describe_is_the_dump_with_origins(minimal, write):
    loaded = load_config(minimal, ["optimizer.lr=1e-3"])
    text = describe(loaded)
    # The list of sets is a long line, and pushes its own comment aside.
    columns = {line.index("  # ") for line in text.splitlines() if "#" in line and "sets: " not in line}
    comments = [line.split("# ")[1] for line in text.splitlines() if "#" in line]
    assert len(columns) == 1
    assert comments == list(loaded.origins.values())
    assert load_config(write("again.yaml", text)).config == loaded.config


def test_flat_parameters_are_plain_and_complete(config):
    flat = flatten(config)
    assert list(flat) == [key for key, field in schema_fields().items() if field.is_leaf]
    assert {type(value) for value in flat.values()} <= {str, int, float, bool, type(None)}
    assert json.loads(flat["evaluation.sets"]) == [s.model_dump() for s in config.evaluation.sets]
    assert flat["optimizer.betas"] == json.dumps(list(config.optimizer.betas))
    assert flat["runs_dir"] == str(config.runs_dir)


def test_diff_lists_what_differs_and_only_that(minimal):
    a = load_config(minimal).config
    b = load_config(minimal, ["optimizer.betas=[0.9, 0.95]", "data.path=q", "training.ema_decay=0.5"]).config
    assert diff(a, a) == []
    assert diff(a, b) == [
        ("data.path", "shards", "q"),
        ("optimizer.betas", "[0.9, 0.999]", "[0.9, 0.95]"),
        ("training.ema_decay", None, 0.5),
    ]


def test_the_listing_of_fields_names_type_default_and_meaning_of_each():
    text = schema_help()
    entries = {entry.split("\n")[0]: " ".join(entry.split()) for entry in text.split("\n  ") if entry}
    fields = {key for key, field in schema_fields().items() if not field.is_section}
    assert fields <= {line.strip() for line in text.splitlines()}
    assert "list of 2, each number, >= 0, < 1; default [0.9, 0.999]" in text
    assert "number, > 0, < 1, or null; default null" in text
    assert "one of 0, 1, 2, 3; default 1" in text
    assert "path; required" in text
    assert max(map(len, text.splitlines())) <= 120
    assert entries
    for key, field in schema_fields().items():
        assert field.is_section or field.info.description, f"{key} has no description"


def test_paths_stay_paths(config):
    assert isinstance(config.runs_dir, Path)
