"""YAML to values and the place of each; every way a text can fail to be a configuration is named, with its place."""

import pytest

from cait_dist.config import ConfigError
from cait_dist.config.errors import Place
from cait_dist.config.yaml_places import MAX_DEPTH, MAX_NODES, parse_file, parse_value


def fatal(text):
    with pytest.raises(ConfigError) as caught:
        parse_file(text, "f.yaml")
    return str(caught.value.problems[-1])


def test_keys_and_items_have_places():
    layer, problems = parse_file("a: 1\nb:\n  c: [x, {d: 2}]\n  - e\n".replace("  - e\n", ""), "f.yaml")
    assert problems == []
    assert layer.values == {"a": 1, "b": {"c": ["x", {"d": 2}]}}
    assert {path: str(place) for path, place in layer.places.items()} == {
        ("a",): "f.yaml:1:1",
        ("b",): "f.yaml:2:1",
        ("b", "c"): "f.yaml:3:3",
        ("b", "c", 0): "f.yaml:3:7",
        ("b", "c", 1): "f.yaml:3:10",
        ("b", "c", 1, "d"): "f.yaml:3:11",
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "null\n", "\ufeff"])
def test_nothing_is_an_empty_configuration(text):
    assert parse_file(text, "f.yaml")[0].values == {}


@pytest.mark.parametrize(
    "text", ["a: 1\nb: [2, three]\n", "{a: 1, b: [2, three]}", '"a": 1\r\n"b":\r\n- 2\r\n- three\r\n']
)
def test_block_flow_and_json_spell_the_same(text):
    assert parse_file(text, "f.yaml")[0].values == {"a": 1, "b": [2, "three"]}


def test_quotes_make_text():
    layer, _ = parse_file("a: '1'\nb: \"true\"\nc: 'null'\nd: |\n  2\n", "f.yaml")
    assert layer.values == {"a": "1", "b": "true", "c": "null", "d": "2\n"}


def test_a_repeated_key_names_both_places():
    layer, problems = parse_file("o:\n  lr: 1\n  eps: 2\n  lr: 3\n", "f.yaml")
    assert [str(p) for p in problems] == ["f.yaml:4:3: 'o.lr' is already set at f.yaml:2:3: keep one of the two"]
    assert layer.values == {"o": {"lr": 1, "eps": 2}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1:4: '!!python/object/apply:os.system' is a tag"),
        ("a: !Path x", "f.yaml:1:4: '!Path' is a tag, and tags are not allowed: write the plain value"),
        ("a: !!int '3'", "f.yaml:1:4: '!!int' is a tag"),
        ("!k a: 3", "f.yaml:1:1: '!k' is a tag"),
        ("<<: {a: 1}", "f.yaml:1:1: merge keys ('<<') are not supported: use 'base:'"),
        ("a: None", "f.yaml:1:4: None is only text in YAML: write null"),
        ('a: "\\ud800"', "f.yaml:1:4: this text holds a character that no file name can hold"),
        ('a: "\\0"', "f.yaml:1:4: this text holds a character that no file name can hold"),
    ],
)
def test_problems_that_leave_something_to_go_on_with(text, problem):
    _, problems = parse_file(text, "f.yaml")
    assert len(problems) == 1
    assert str(problems[0]).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- 1\n- 2", "f.yaml:1:1: a configuration holds 'key: value' lines, this one a list"),
        ("lr:3", "f.yaml:1:1: a configuration holds 'key: value' lines, this one only 'lr:3'"),
        ("a:\n\tb: 1", "f.yaml:2:1: not valid YAML: a tab cannot indent here: use spaces"),
        (
            "a: 1\n  b: 2",
            "f.yaml:2:4: not valid YAML: a second 'key: value' begins here: check the indentation, or qu…",
        ),
        ("a: 1\nb\nc: 2", "f.yaml:3:1: not valid YAML: the line above lacks its ':' (or a quote is open)"),
        ("a:\n  b: 1\n c: 2", "f.yaml:3:2: not valid YAML: this line does not fit the ones above it: check the ind…"),
        ("a: [1, 2", "f.yaml:1:9: not valid YAML: a bracket is never closed, or a comma is missing"),
        ("a: 'x", "f.yaml:1:6: not valid YAML: a quote is never closed"),
        ("a: @x", "f.yaml:1:4: not valid YAML: text that begins with this character must be in quotes"),
        ("a: [1,, 2]", "f.yaml:1:7: not valid YAML: a value is missing here"),
        ("'a':1", "f.yaml:1:4: not valid YAML: this text belongs to nothing above: is there a space after every ':'?"),
        ("a: 1\nb: \x07", "f.yaml:2:4: not valid YAML: there is a character here that text may not hold"),
        ('a: "\\UFFFFFFFF"', "f.yaml: not valid YAML: a backslash escape names no character"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document begins here ('---'): one file holds one"),
        ("? [a]\n: 1", "f.yaml:1:3: a key must be a single word"),
        ("a: *b", "f.yaml:1:4: '*b' refers to '&b', which is not complete before this line"),
        ("a: &b [*b]", "f.yaml:1:8: '*b' refers to '&b', which is not complete before this line"),
        ("%YAML 2.0\n---\na: 1", "f.yaml:1:1: not valid YAML: found incompatible YAML document"),
    ],
)
def test_problems_that_end_the_reading(text, problem):
    assert fatal(text).startswith(problem.rstrip("…"))


def test_aliases_repeat_a_value_and_point_at_the_original():
    layer, problems = parse_file("a: &x {lr: 1}\nb: *x\n", "f.yaml")
    assert problems == []
    assert layer.values == {"a": {"lr": 1}, "b": {"lr": 1}}
    assert str(layer.places["b",]) == "f.yaml:2:1"
    assert str(layer.places["b", "lr"]) == "f.yaml:1:8"


def test_aliases_cannot_blow_up():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert fatal(bomb).endswith(f"holds more than {MAX_NODES} values once its aliases (*) are expanded")


@pytest.mark.parametrize("text", ["a: " + "[" * 5000, "a: " + "{b: " * 5000, "- " * 5000 + "x"])
def test_nesting_is_bounded(text):
    assert fatal(text).endswith(f"nested more than {MAX_DEPTH} levels deep")


def test_nesting_by_aliases_is_bounded():
    steps = [f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 5)]
    assert fatal("a0: &a0 x\n" + "".join(steps)).endswith(f"nested more than {MAX_DEPTH} levels deep")


def test_a_typed_value_has_the_argument_as_its_only_place():
    place = Place("command line 'o={lr: 1}'", argument=0)
    layer, problems = parse_value("{lr: 1}", ("o",), place)
    assert problems == []
    assert layer.values == {"o": {"lr": 1}}
    assert layer.places == {("o",): place, ("o", "lr"): place}
