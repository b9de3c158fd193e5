"""Which value wins, where it came from, and how files build on each other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cait_dist.config import ConfigError, RunConfig, load_config

ROOT = Path(__file__).parents[3]


def test_the_shortest_configuration_takes_every_default(minimal):
    loaded = load_config(minimal)
    assert loaded.config == RunConfig(name="demo", data={"path": "shards"})
    assert loaded.origins["name"] == "run.yaml:1:1"
    assert loaded.origins["data.path"] == "run.yaml:2:8"
    assert loaded.origins["training.zero.stage"] == "default"


def test_precedence_is_defaults_base_file_command_line(write):
    write("base.yaml", "training: {epochs: 1, global_batch: 2, log_every: 3}\n")
    file = write("run.yaml", "base: base.yaml\nname: demo\ndata: {path: p}\ntraining: {epochs: 10, global_batch: 20}\n")
    loaded = load_config(file, ["training.epochs=100"])
    training = loaded.config.training
    assert (training.epochs, training.global_batch, training.log_every, training.precision) == (100, 20, 3, "bf16")
    assert {key: loaded.origins[f"training.{key}"] for key in ("epochs", "global_batch", "log_every", "precision")} == {
        "epochs": "command line 'training.epochs=100'",
        "global_batch": "run.yaml:4:24",
        "log_every": "base.yaml:1:40",
        "precision": "default",
    }


def test_every_leaf_has_an_origin_and_nothing_else_does(minimal):
    origins = load_config(minimal).origins
    assert "training" not in origins
    assert "evaluation.sets" in origins
    assert "evaluation.sets.name" not in origins
    assert list(origins)[:4] == ["name", "runs_dir", "seed", "model.name"]


def test_mappings_merge_but_lists_are_replaced(write):
    write("base.yaml", "optimizer: {betas: [0.5, 0.6], lr: 1}\nevaluation: {sets: [{name: a}, {name: b}]}\n")
    file = write("run.yaml", "base: base.yaml\nname: n\ndata: {path: p}\nevaluation: {sets: [{split: c}]}\n")
    config = load_config(file, ["optimizer={lr: 2}"]).config
    assert config.optimizer.betas == (0.5, 0.6)
    assert config.optimizer.lr == 2
    assert [(s.name, s.split) for s in config.evaluation.sets] == [("val", "c")]


class TestBase:
    def test_later_bases_win_over_earlier_ones(self, write):
        write("a.yaml", "seed: 1\noptimizer: {lr: 1, eps: 1}\n")
        write("b.yaml", "optimizer: {lr: 2}\n")
        file = write("run.yaml", "base: [a.yaml, b.yaml]\nname: n\ndata: {path: p}\n")
        loaded = load_config(file)
        assert (loaded.config.seed, loaded.config.optimizer.lr, loaded.config.optimizer.eps) == (1, 2, 1)
        assert loaded.origins["optimizer.lr"] == "b.yaml:1:13"
        assert loaded.origins["optimizer.eps"] == "a.yaml:2:20"

    def test_names_are_relative_to_the_file_that_holds_them(self, write, tmp_path):
        write("configs/recipe/paper.yaml", "base: ../model/s24.yaml\nseed: 5\n")
        write("configs/model/s24.yaml", "model: {name: cait_s24_224}\n")
        file = write("configs/run.yaml", "base: recipe/paper.yaml\nname: n\ndata: {path: p}\n")
        for path in (file, tmp_path / file):
            assert load_config(path).config.model.name == "cait_s24_224"
        assert load_config(file).origins["model.name"] == "configs/model/s24.yaml:1:9"

    def test_settings_that_are_paths_are_relative_to_the_working_directory(self, write):
        write("configs/base.yaml", "data: {path: shards}\n")
        config = load_config(write("configs/run.yaml", "base: base.yaml\nname: n\n")).config
        assert config.data.path == Path("shards")
        assert config.run_dir == Path("runs/n")

    def test_a_file_reached_twice_is_read_once(self, write):
        write("f0.yaml", "name: n\ndata: {path: p}\n")
        for i in range(1, 30):  # 2**29 readings otherwise
            write(f"f{i}.yaml", f"base: [f{i - 1}.yaml, f{i - 1}.yaml]\n")
        assert load_config("f29.yaml").config.name == "n"

    def test_a_circle_names_its_chain(self, write, errors):
        write("a.yaml", "seed: 1\nbase: d/b.yaml\n")
        write("d/b.yaml", "base: c.yaml\n")
        write("d/c.yaml", "base: [b.yaml]\n")
        assert errors("a.yaml") == [
            "d/c.yaml:1:8: 'base': the files build on each other in a circle: d/b.yaml → d/c.yaml → d/b.yaml"
        ]

    def test_a_file_cannot_build_on_itself(self, write, errors):
        write("a.yaml", "base: ./a.yaml\n")
        assert errors("a.yaml") == ["a.yaml:1:1: 'base': the files build on each other in a circle: a.yaml → a.yaml"]

    def test_the_chain_is_bounded(self, write, errors):
        for i in range(40):
            write(f"f{i}.yaml", f"base: f{i + 1}.yaml\n")
        assert errors("f0.yaml") == ["f31.yaml:1:1: 'base': more than 32 files build on each other"]

    def test_all_missing_bases_are_named_with_what_is_there(self, write, errors):
        write("recipe/paper.yaml", "")
        write("run.yaml", "base:\n  - recipe/papr.yaml\n  - recpe/paper.yaml\n")
        assert errors("run.yaml", "seed") == [
            "run.yaml:2:5: there is no file 'recipe/papr.yaml' — did you mean 'recipe/paper.yaml'?",
            "run.yaml:3:5: there is no file 'recpe/paper.yaml': there is no folder 'recpe'",
            "command line 'seed': expected key=value",
        ]

    @pytest.mark.parametrize("value", ["3", "", "{a: b}", "[a.yaml, 3]", "''", "[[a.yaml]]"])
    def test_it_must_name_files(self, write, errors, value):
        (line,) = errors(write("run.yaml", f"base: {value}\n"))
        assert line.startswith("run.yaml:1:1: 'base': must be the name of a file or a list of them, got ")

    def test_it_belongs_in_a_file_at_the_top(self, write, errors, minimal):
        assert errors(minimal, "base=other.yaml") == [
            "command line 'base=other.yaml': 'base' belongs in a file, not on the command line"
        ]
        nested = write("nested.yaml", "name: n\ndata: {path: p}\nmodel:\n  base: m.yaml\n")
        assert errors(nested) == ["nested.yaml:4:3: unknown key 'model.base' — did you mean 'base'?"]


class TestOverrides:
    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("optimizer.lr=1e-3", 0.001),
            ("optimizer.betas=[0.9,0.95]", (0.9, 0.95)),
            ("training.ema_decay=null", None),
            ("training.ema_decay=", None),
            ("training.zero.bucket_size=2e8", 200_000_000),
            ("training.zero.bucket_size=200_000_000", 200_000_000),
            ("tracking.mlflow=false", False),
            ("tracking.uri=http://localhost:5000/?a=b", "http://localhost:5000/?a=b"),
            ("data.path=/a b/c", Path("/a b/c")),
            ("optimizer.lr = 2", 2.0),
            ('name="7"', "7"),
        ],
    )
    def test_values_follow_the_rules_of_yaml(self, minimal, override, value):
        found = load_config(minimal, [override]).config
        for part in override.split("=")[0].strip().split("."):
            found = getattr(found, part)
        assert found == value
        assert type(found) is type(value)

    def test_the_last_of_two_wins(self, minimal):
        loaded = load_config(minimal, ["seed=1", "seed=2"])
        assert loaded.config.seed == 2
        assert loaded.origins["seed"] == "command line 'seed=2'"

    def test_a_mapping_is_laid_over_the_file_key_by_key(self, write):
        file = write("run.yaml", "name: n\ndata: {path: p, workers: 7}\n")
        loaded = load_config(file, ["data={path: q}"])
        assert (loaded.config.data.path, loaded.config.data.workers) == (Path("q"), 7)
        assert loaded.origins["data.path"] == "command line 'data={path: q}'"
        assert loaded.origins["data.workers"] == "run.yaml:2:17"

    def test_a_configuration_can_be_completed_on_the_command_line(self, write):
        loaded = load_config(write("empty.yaml", ""), ["name=n", "data.path=p"])
        assert loaded.config == RunConfig(name="n", data={"path": "p"})

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("seed", "expected key=value"),
            ("", "expected key=value"),
            ("=3", "'' is not a dotted key like 'optimizer.lr'"),
            ("optimizer..lr=3", "'optimizer..lr' is not a dotted key like 'optimizer.lr'"),
            (".".join("a" * 30) + "=1", None),
            ("seed=[1", "not valid YAML: a bracket is never closed, or a comma is missing"),
            ("name=!!python/name:os.system x", None),
            ("seed=\udcff", "not valid YAML: there is a character here that text may not hold"),
            ("evaluation.sets.0.split=x", None),
        ],
    )
    def test_every_malformed_one_is_named(self, minimal, errors, override, problem):
        (line,) = errors(minimal, override)
        shown = f"command line {override!r}: "
        assert line.startswith(shown)
        assert problem is None or line == shown + problem

    def test_a_list_is_replaced_as_a_whole(self, minimal, errors):
        assert errors(minimal, "evaluation.sets.0.split=x") == [
            "command line 'evaluation.sets.0.split=x': 'evaluation.sets': must be a list, got {0: {split: 'x'}}"
            " — a list is replaced as a whole, as in [a, b]"
        ]


class TestFiles:
    def test_a_missing_file_suggests_its_neighbours(self, write, errors):
        write("configs/digits.yaml", "")
        assert errors("configs/digit.yml") == [
            "there is no file 'configs/digit.yml' — did you mean 'configs/digits.yaml'?"
        ]
        assert errors("configs/digits") == ["there is no file 'configs/digits' — did you mean 'configs/digits.yaml'?"]
        assert errors("config/digits.yaml") == ["there is no file 'config/digits.yaml': there is no folder 'config'"]

    def test_a_folder_is_not_a_file(self, write, errors):
        write("configs/digits.yaml", "")
        assert errors("configs") == ["'configs' is a folder, not a file — did you mean 'configs/digits.yaml'?"]

    def test_binary_and_other_encodings_are_refused(self, tmp_path, errors):
        (tmp_path / "shard.tar").write_bytes(b"\nabc\xff\xfe")
        assert errors("shard.tar") == ["'shard.tar' is not UTF-8 text (line 2): this is no configuration file"]
        (tmp_path / "wide.yaml").write_bytes("name: ü".encode("utf-16"))
        assert errors("wide.yaml") == ["'wide.yaml' is not UTF-8 text (line 1): this is no configuration file"]

    def test_a_large_file_is_not_read_to_its_end(self, tmp_path, errors):
        (tmp_path / "big.yaml").write_text("# \n" * 200_000)
        assert errors("big.yaml") == ["'big.yaml' is larger than 256 KiB: this is no configuration file"]

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop.yaml"])
    def test_names_that_no_file_can_have(self, tmp_path, errors, name):
        (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        (line,) = errors(name)
        assert "there is no file" in line or "is not a file that can be read" in line

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission(self, minimal, errors):
        minimal.chmod(0)
        assert errors(minimal) == ["'run.yaml' cannot be read: Permission denied"]

    def test_windows_line_ends_and_a_byte_order_mark_are_fine(self, tmp_path):
        (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfname: n\r\ndata:\r\n  path: p\r\n")
        loaded = load_config("run.yaml")
        assert loaded.config.data.path == Path("p")
        assert loaded.origins["data.path"] == "run.yaml:3:3"

    def test_the_home_directory_is_expanded(self, minimal, monkeypatch):
        monkeypatch.setenv("HOME", "/home/me")
        assert load_config(minimal, ["data.path=~/shards"]).config.data.path == Path("/home/me/shards")


def test_loading_changes_nothing_and_can_be_repeated(minimal):
    assert load_config(minimal, ["seed=3"]) == load_config(str(minimal), ("seed=3",))
    with pytest.raises(ConfigError):
        load_config(minimal, ["sed=3"])
    assert load_config(minimal).config.seed == 0


def test_the_room_is_light():
    code = "import sys, cait_dist.config; print(*{'torch', 'rich', 'numpy', 'mlflow', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
