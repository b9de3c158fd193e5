"""What the user reads when a configuration is wrong: all of it at once, each line with place, key, rule and remedy."""

import pickle

import pytest
from pydantic import ValidationError

from cait_dist.config import ConfigError, Problem, RunConfig, load_config
from cait_dist.config.errors import value_text
from cait_dist.config.explain import explain
from cait_dist.config.fields import schema_fields
from cait_dist.config.suggest import SYNONYMS, nearest_keys
from cait_dist.config.yaml_places import parse_file

FORBIDDEN = (
    "pydantic",
    "http://errors",
    "https://errors",
    "Input should",
    "Config'",
    "_type",
    "Value error",
    "PosixPath",
)


def test_everything_wrong_is_said_at_once_in_reading_order(write, errors):
    write("recipe.yaml", "optimizer: {lrr: 1e-3}\n")
    write(
        "run.yaml",
        """\
base: recipe.yaml
batch_size: 3
model: {name: cait_s24_22, drop_rate: 1.5}
optimizer:
  betas: [0.9]
  eps: 1
  eps: 4
training:
  epochs: four
  zero: {stage: true}
tracking: {mlflow: off}
schedule: cosin
""",
    )
    assert errors("run.yaml", "optim.lr=3", "seed") == [
        "recipe.yaml:1:13: unknown key 'optimizer.lrr' — did you mean 'optimizer.lr'?",
        "run.yaml: 'name' is required — add it to run.yaml or pass name=…",
        "run.yaml: 'data.path' is required — add it to run.yaml or pass data.path=…",
        "run.yaml:2:1: unknown key 'batch_size' — did you mean 'training.global_batch'?",
        "run.yaml:3:9: 'model.name': must be one of 'cait_s24_224', 'cait_xs24_224', 'cait_xxs24_224' or 27 more, "
        "got 'cait_s24_22' — did you mean 'cait_s24_224'?",
        "run.yaml:3:28: 'model.drop_rate': must be less than 1, got 1.5",
        "run.yaml:5:3: 'optimizer.betas': must be a list of 2, got [0.9]",
        "run.yaml:7:3: 'optimizer.eps' is already set at run.yaml:6:3: keep one of the two",
        "run.yaml:9:3: 'training.epochs': must be a number, got 'four'",
        "run.yaml:10:10: 'training.zero.stage': must be one of 0, 1, 2, 3, got true",
        "run.yaml:11:12: 'tracking.mlflow': must be true or false, got 'off' — did you mean false?",
        "run.yaml:12:1: 'schedule': needs a mapping, got 'cosin' — did you mean 'schedule.kind'?",
        "command line 'optim.lr=3': unknown key 'optim.lr' — did you mean 'optimizer.lr'?",
        "command line 'seed': expected key=value",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lr=four", "'optimizer.lr': must be a number, got 'four'"),
        ("optimizer.lr='1e-3'", "'optimizer.lr': must be a number, got '1e-3' — remove the quotes"),
        ("optimizer.lr=true", "'optimizer.lr': must be a number, got true"),
        ("optimizer.lr=null", "'optimizer.lr': must be a number, got null"),
        ("optimizer.lr=.nan", "'optimizer.lr': must be a finite number, got nan"),
        ("optimizer.lr=1e999", "'optimizer.lr': must be a finite number, got inf"),
        ("optimizer.lr=0", "'optimizer.lr': must be greater than 0, got 0"),
        ("optimizer.lr=[1, 2]", "'optimizer.lr': must be a number, got [1, 2]"),
        ("training.global_batch=400.5", "'training.global_batch': must be a whole number, got 400.5"),
        ("training.global_batch=true", "'training.global_batch': must be a whole number, got true"),
        ("training.global_batch='4'", "'training.global_batch': must be a whole number, got '4' — remove the quotes"),
        ("training.global_batch=0", "'training.global_batch': must be at least 1, got 0"),
        ("augment.hflip=50", "'augment.hflip': must be at most 1, got 50"),
        ("augment.mix_group=3", "'augment.mix_group': must be a multiple of 2, got 3"),
        ("augment.crop_scale=[1, 0.5]", "'augment.crop_scale': must be two numbers with 0 < low <= high, got [1, 0.5]"),
        ("augment.crop_scale=[1, 2]", "'augment.crop_scale': must not exceed 1 (the whole image), got [1, 2]"),
        ("augment.std=[1, 1, 0]", "'augment.std': must be positive, got [1, 1, 0]"),
        ("augment.mean=[]", "'augment.mean': must be a list of 3, got []"),
        ("optimizer.betas=[1,2,3]", "'optimizer.betas': must be a list of 2, got [1, 2, 3]"),
        ("optimizer.betas=[x, 0.9]", "'optimizer.betas[0]': must be a number, got 'x'"),
        ("optimizer.betas=0.9", "'optimizer.betas': must be a list, got 0.9"),
        ("evaluation.weights=[]", "'evaluation.weights': must be a list of at least 1, got []"),
        ("evaluation.weights=ema", "'evaluation.weights': must be a list, got 'ema'"),
        ("evaluation.weights=[emma]", "'evaluation.weights[0]': must be one of 'raw', 'ema', got 'emma' "
         "— did you mean 'ema'?"),
        ("evaluation.sets=[x]", "'evaluation.sets[0]': needs a mapping, got 'x' "
         "— did you mean 'evaluation.sets[0].name'?"),
        ("evaluation.sets=[{name: a}, {name: a}]", "'evaluation.sets': every set needs a name of its own, "
         "got ['a', 'a']"),
        ("evaluation.sets=[{name: a/b}]", "'evaluation.sets[0].name': must be letters, digits, '_' and '-', got 'a/b'"),
        ("tracking.mlflow=off", "'tracking.mlflow': must be true or false, got 'off' — did you mean false?"),
        ("tracking.mlflow=1", "'tracking.mlflow': must be true or false, got 1 — did you mean true?"),
        ("tracking.mlflow=maybe", "'tracking.mlflow': must be true or false, got 'maybe'"),
        ("tracking.uri=ftp://x", "'tracking.uri': must start with http://, https://, postgresql:// or sqlite:///, "
         "got 'ftp://x'"),
        ("tracking.uri=none", "'tracking.uri': must start with http://, https://, postgresql:// or sqlite:///, "
         "got 'none' — did you mean null?"),
        ("tracking.experiment=''", "'tracking.experiment': must not be empty, got ''"),
        ("schedule.kind=cosin", "'schedule.kind': must be one of 'cosine', 'constant', got 'cosin' "
         "— did you mean 'cosine'?"),
        ("schedule.kind=Cosine", "'schedule.kind': must be one of 'cosine', 'constant', got 'Cosine' "
         "— did you mean 'cosine'?"),
        ("training.precision=16", "'training.precision': must be one of 'fp32', 'bf16', got 16 — did you mean 'bf16'?"),
        ("training.zero.stage=5", "'training.zero.stage': must be one of 0, 1, 2, 3, got 5"),
        ("training.zero.stage='1'", "'training.zero.stage': must be one of 0, 1, 2, 3, got '1' — did you mean 1?"),
        ("training.activation_checkpointing=every-0", "'training.activation_checkpointing': must be 'none', "
         "'attention', 'block' or 'every-K' (every-2: every second block), got 'every-0'"),
        ("training.ema_decay=none", "'training.ema_decay': must be a number, got 'none' — did you mean null?"),
        ("name=3", "'name': must be text, got 3 — put it in quotes"),
        ("name=a b", "'name': must be letters, digits, '.', '_' and '-', beginning with a letter or digit, got 'a b'"),
        ("data.path=3", "'data.path': must be text, got 3 — put it in quotes"),
        ("data.path=~nobody_here/x", "'data.path': must begin with a home directory that exists, got '~nobody_here/x'"),
        ("model=cait_s24_224", "'model': needs a mapping, got 'cait_s24_224' — did you mean 'model.name'?"),
        ("training.zero=3", "'training.zero': needs a mapping, got 3 — did you mean 'training.zero.stage'?"),
        ("model=", "'model': needs a mapping, got nothing — indent its keys below it, or remove the line"),
        ("data=", "'data': needs a mapping, got nothing — indent its keys below it"),
        ("model=[]", "'model': needs a mapping, got [] — did you mean 'model.name'?"),
    ],
)  # fmt: skip
def test_wrong_values_are_explained_in_plain_words(minimal, errors, override, said):
    (line,) = errors(minimal, override)
    assert line == f"command line {override!r}: {said}"
    assert not any(word in line.removeprefix("command line") for word in FORBIDDEN)


@pytest.mark.parametrize("whole", ["4e2", "400.0", "400", "4_00"])
def test_a_whole_number_may_be_written_in_any_way(minimal, whole):
    value = load_config(minimal, [f"training.global_batch={whole}"]).config.training.global_batch
    assert value == 400
    assert type(value) is int


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("optimzer", ["optimizer"]),
        ("optim.lr", ["optimizer.lr"]),
        ("optim.lrr", ["optimizer.lr"]),
        ("optim.nothing_like_it", ["optimizer"]),
        ("optimizer.lrr", ["optimizer.lr"]),
        ("optimizer.weight-decay", ["optimizer.weight_decay"]),
        ("--optimizer.lr", ["optimizer.lr"]),
        ("Optimizer.LR", ["optimizer.lr"]),
        ("trainng.zero.stge", ["training.zero.stage"]),
        ("training.zer.stage", ["training.zero.stage"]),
        ("training.zero.stge", ["training.zero.stage"]),
        ("training.checkpoint.kep", ["training.checkpoint.keep"]),
        ("training.stage", ["training.zero.stage"]),
        ("lr", ["optimizer.lr"]),
        ("model.lr", ["optimizer.lr"]),
        ("epoch", ["training.epochs"]),
        ("crop_ratio", ["augment.crop_ratio", "evaluation.crop_ratio"]),
        ("evaluation.crop_scale", ["evaluation.crop_ratio", "augment.crop_scale"]),
        ("evaluation.sets.nam", ["evaluation.sets.name"]),
        ("nam", ["name"]),
        ("evaluation.batch_size", ["evaluation.batch"]),
        ("optimizer.learning_rate", ["optimizer.lr"]),
        ("bse", ["base"]),
        ("qwertyuiop", []),
    ],
)
def test_typos_at_every_depth_find_what_was_meant(unknown, meant):
    found = nearest_keys(unknown)
    assert found[: len(meant)] == meant
    assert bool(found) == bool(meant)
    assert len(set(found)) == len(found)


def test_words_of_other_trainers_are_understood():
    known = {*schema_fields(), "base"}
    for word, key in SYNONYMS.items():
        assert key in known
        assert nearest_keys(word)[0] == key
        assert word not in {k.rpartition(".")[2] for k in known}, f"{word} is a key of its own"


@pytest.mark.parametrize("key", [key for key, field in schema_fields().items() if not field.in_list])
def test_every_key_with_one_letter_too_many_suggests_itself(minimal, errors, key):
    (line,) = errors(minimal, f"{key}x=1")
    assert line.startswith(f"command line '{key}x=1': unknown key '{key}x' — did you mean '{key}'")


def test_a_typo_inside_a_list_says_which_item(write, errors):
    write("run.yaml", "name: n\ndata: {path: p}\nevaluation:\n  sets:\n    - {name: a}\n    - {splt: b}\n")
    assert errors("run.yaml") == [
        "run.yaml:6:8: unknown key 'evaluation.sets[1].splt' — did you mean 'evaluation.sets[1].split'?"
    ]


def test_dotted_keys_in_a_file_are_explained(write, errors):
    file = write("run.yaml", "name: n\ndata: {path: p}\noptimizer.lr: 3\n")
    assert errors(file) == [
        "run.yaml:3:1: unknown key 'optimizer.lr' — write 'optimizer:' and, indented below it, 'lr: …'"
    ]


def test_an_unknown_section_is_one_error_but_every_argument_is_named(write, errors):
    file = write("run.yaml", "name: n\ndata: {path: p}\noptim: {lr: 1, eps: 2}\n")
    assert errors(file, "optim.lr=3", "optim.betas=[1, 2]") == [
        "run.yaml:3:1: unknown key 'optim' — did you mean 'optimizer'?",
        "command line 'optim.lr=3': unknown key 'optim.lr' — did you mean 'optimizer.lr'?",
        "command line 'optim.betas=[1, 2]': unknown key 'optim.betas' — did you mean 'optimizer.betas'?",
    ]


def test_what_is_missing_is_reported_at_its_section(write, errors):
    file = write("run.yaml", "name: n\ndata:\n  workers: 2\n")
    assert errors(file) == ["run.yaml:2:1: 'data.path' is required — add it to run.yaml or pass data.path=…"]
    write("over.yaml", "base: run.yaml\nseed: 1\ndata: {order: block}\n")
    assert errors("over.yaml") == ["over.yaml:3:1: 'data.path' is required — add it to over.yaml or pass data.path=…"]
    file = write("bare.yaml", "name: n\n")
    assert errors(file, "data.workers=2") == [
        "bare.yaml: 'data.path' is required — add it to bare.yaml or pass data.path=…"
    ]


def test_rules_between_sections_are_all_told_each_at_a_key_it_names(write, errors):
    write("run.yaml", "name: n\ndata: {path: p}\nschedule:\n  warmup_epochs: 500\nevaluation: {weights: [raw, ema]}\n")
    assert errors("run.yaml", "training.global_batch=3") == [
        "run.yaml:4:3: schedule.warmup_epochs (500) exceeds training.epochs (400)",
        "run.yaml:5:14: evaluation.weights asks for 'ema', but training.ema_decay is null: set it, e.g. 0.9999",
        "command line 'training.global_batch=3': mixup and cutmix blend neighbours, so training.global_batch "
        "must be even, got 3",
    ]


def test_a_rule_between_values_that_are_all_defaults_is_reported_at_the_file(minimal, monkeypatch, errors):
    monkeypatch.setattr(RunConfig, "_disagreements", lambda self: ["training.epochs and seed do not get along"])
    assert errors(minimal) == ["run.yaml: training.epochs and seed do not get along"]


def test_a_rule_inside_a_section_is_reported_at_the_key_it_names():
    rule = {
        "type": "value_error",
        "loc": ("augment",),
        "input": {},
        "ctx": {"error": ValueError("mixup: not with cutmix")},
    }
    layer, _ = parse_file("augment:\n  cutmix: 1\n  mixup: 1\n", "run.yaml")
    problems = explain(ValidationError.from_exception_data("", [rule]), layer, "run.yaml")
    assert [str(problem) for problem in problems] == ["run.yaml:3:3: mixup: not with cutmix"]


def test_control_characters_never_reach_the_terminal(write, errors):
    file = write("run.yaml", 'name: n\ndata: {path: p}\n"a\\e[31m\\nb": 1\n')
    assert errors(file) == [r"run.yaml:3:1: unknown key 'a\x1b[31m\nb'"]


def test_long_values_are_cut():
    assert value_text("x" * 500) == "'" + "x" * 58 + "…"
    assert value_text({"a": [1, None, True, "b"]}) == "{a: [1, null, true, 'b']}"


def test_the_error_survives_a_process_boundary_and_keeps_its_problems():
    error = ConfigError([Problem("one"), Problem("two")])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(error, ValueError)
    assert again.problems == error.problems
    assert str(again) == str(error) == "2 errors in the configuration:\n  one\n  two"


def test_compiling_is_refused_at_stage_3_at_its_key(minimal, errors):
    assert errors(minimal, "training.compile=true", "training.zero.stage=3") == [
        "command line 'training.compile=true': compile true needs zero.stage 2 or less: at stage 3 parameters "
        "come and go in a branch"
    ]


def test_products_of_8_bits_are_refused_beside_fp32_at_their_key(minimal, errors):
    assert errors(minimal, "training.float8=true", "training.precision=fp32") == [
        "command line 'training.float8=true': float8 true needs precision 'bf16', got 'fp32'"
    ]
