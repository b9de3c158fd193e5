"""What a word means (YAML 1.2, not 1.1) and that what is spelled reads back, here and by other programs."""

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_dist.config.scalars import plain_scalar, spell
from cait_dist.config.yaml_places import parse_file


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), ("5.e-4", 5e-4), (".5", 0.5), ("-1.", -1.0), ("+2.5", 2.5),
        ("7", 7), ("-7", -7), ("+7", 7), ("010", 10), ("200_000_000", 200_000_000),
        (".inf", math.inf), ("-.Inf", -math.inf),
        ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
    ],
)  # fmt: skip
def test_numbers_booleans_and_null(word, value):
    assert plain_scalar(word) == value
    assert type(plain_scalar(word)) is type(value)


def test_nan_is_a_number():
    assert math.isnan(plain_scalar(".nan"))


@pytest.mark.parametrize(
    "word",
    ["no", "off", "yes", "on", "y", "N", "1:30", "190:20:30", "2026-01-01", "1e", "e5", "1__0",
     "_1", "1_", "0x1f", "0o7", "1.2.3", "nan", "inf", "None", "none", "-", ".", "1,5", "50%", "tRUE", "=", "<<", "١"],
)  # fmt: skip
def test_everything_else_is_text(word):
    assert plain_scalar(word) == word


def test_an_absurdly_long_number_is_text_and_not_an_overflow():
    for word in ("9" * 5000, "1e" + "9" * 5000, "1." + "0" * 5000):
        assert plain_scalar(word) == word


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
    | st.sampled_from(
        ["off", "1e-3", "1:30", "1_0", "None", "~", "<<", "a: b", "a #b", "- a", "", " ", "\n", "&a", "*a"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc: #,[]{}", max_size=4), inner, max_size=3),
    max_leaves=6,
)


def same(a, b):
    """Equal, and of equal types: 1, 1.0 and True are three values."""
    return repr(a) == repr(b)


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_what_is_spelled_takes_one_line_and_reads_back_here_and_elsewhere(value):
    text = f"key: {spell(value)}\n"
    assert len(text.splitlines()) == 1
    layer, problems = parse_file(text, "x.yaml")
    assert problems == []
    assert same(layer.values["key"], value)
    assert same(yaml.safe_load(text)["key"], value), "a reader of YAML 1.1 sees something else"


def test_small_numbers_stay_readable():
    assert [spell(x) for x in (5e-4, 1e-6, 1e-8, 0.999, 400.0, 3e300)] == [
        "0.0005", "1.0e-06", "1.0e-08", "0.999", "400.0", "3.0e+300",
    ]  # fmt: skip


def test_only_plain_data_can_be_spelled():
    with pytest.raises(TypeError, match="object is not plain data"):
        spell(object())
