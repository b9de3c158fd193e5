"""Whatever is in the file or on the command line: a configuration or a ``ConfigError``, soon, and nothing else."""

import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cait_dist.config import ConfigError, config_to_yaml, load_config
from cait_dist.config.fields import schema_fields

quick = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

KEYS = st.sampled_from([*schema_fields(), "base", "optim", "a", "0", "<<", ""])
WORDS = st.sampled_from(
    ["1", "1e-3", "off", "true", "null", "[1, 2]", "{a: 1}", "x.yaml", "*a", "&a 1", "!t 1", "'", "[", "- 1", "%", "\t"]
)
SYNTAX = st.text(string.ascii_lowercase[:3] + "0.:-,#&*!|>'\"%@`{}[]?~<= \n\t\\U\x85\ufeff", max_size=60)


def loads_or_explains(path, overrides=()):
    problems = ()
    try:
        config_to_yaml(load_config(path, overrides).config)
    except ConfigError as error:
        problems = error.problems
    assert all(str(problem).isprintable() for problem in problems)


@quick
@given(st.text(max_size=80) | SYNTAX)
def test_any_text(tmp_path, text):
    (tmp_path / "x.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    loads_or_explains(tmp_path / "x.yaml")


@quick
@given(st.binary(max_size=80))
def test_any_bytes(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    loads_or_explains(tmp_path / "x.yaml")


@quick
@given(
    st.dictionaries(
        st.sampled_from(["name", "base", "model", "data", "training", "optim"]),
        WORDS | st.dictionaries(st.sampled_from(["name", "path", "zero", "lr"]), WORDS, max_size=3),
        max_size=4,
    )
)
def test_any_words_in_the_place_of_sections(tmp_path, content):
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {inner}: {word}" for inner, word in value.items())]
        else:
            lines.append(f"{key}: {value}")
    (tmp_path / "x.yaml").write_text("\n".join(lines))
    loads_or_explains(tmp_path / "x.yaml")


@quick
@given(st.lists(st.text(max_size=20) | st.builds("{}={}".format, KEYS, WORDS | SYNTAX), max_size=4))
def test_any_arguments(minimal, overrides):
    loads_or_explains(minimal, overrides)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "? " * 100_000,
        "- " * 100_000,
        "a: &a\n" * 3_000,
        "'" * 200_000,
        "a: " + "9" * 200_000,
        "a: {" + ", ".join(f"k{i}: {i}" for i in range(3_000)) + "}",
        "".join(f"k{i}: [\n" for i in range(10_000)),
        "!" * 200_000,
        'a: "' + "\\x41" * 50_000 + '"',
    ],
    ids=lambda text: text[:8],
)
@pytest.mark.timeout(10)
def test_nothing_takes_forever(write, text):
    loads_or_explains(write("x.yaml", text))
