"""Names and values are fitted to MLflow the same way each time, and none is refused by MLflow's own rules."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_dist.tracking.mlflow_names import MAX_BYTES, MAX_ITEMS, clean_text, numbers, packed, safe_name, safe_names


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("val/top1", "val/top1"),
        ("a-b_c.d e:f", "a-b_c.d e:f"),
        ("acc@1", "acc_1"),
        ("acc[1](x)", "acc_1__x_"),
        ("größe", "größe"),
        ("/top", "_/top"),
        ("a//b/../c/.", "a/_/b/_/c/_"),
        ("", "_"),
    ],
)
def test_what_mlflow_refuses_becomes_an_underscore(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=300), unique=True, max_size=8))
def test_any_names_become_distinct_ones_that_mlflow_takes_and_always_the_same(names: list[str]) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_metric_name  # noqa: PLC0415

    safe = safe_names(names)
    assert len(set(safe.values())) == len(names)
    for name in safe.values():
        _validate_metric_name(name)
        assert len(name) <= MAX_ENTITY_KEY_LENGTH
    assert safe_names(reversed(names)) == safe


def test_a_name_that_needs_no_change_keeps_it_whoever_else_wants_it() -> None:
    safe = safe_names(["acc@1", "acc_1"])
    assert safe["acc_1"] == "acc_1"
    assert safe["acc@1"].startswith("acc_1-")


def test_texts_are_cut_with_an_ellipsis_and_can_be_encoded() -> None:
    assert clean_text("x" * 10, 10) == "x" * 10
    assert clean_text("x" * 11, 10) == "x" * 9 + "…"
    assert clean_text("a\0b\udcff", 10) == "a�b?"
    assert (clean_text("", 5), clean_text(None, 5), clean_text(1e-3, 9)) == ("", "None", "0.001")


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text(max_size=5), st.sampled_from(["", "x", "€" * 6000, "y" * 6000]), max_size=250))
def test_portions_keep_the_order_and_mlflows_limits(texts: dict[str, str]) -> None:
    portions = list(packed(texts))
    assert [pair for portion in portions for pair in portion.items()] == list(texts.items())
    for portion in portions:
        assert 0 < len(portion) <= MAX_ITEMS
        assert len(json.dumps(portion)) < 2 * MAX_BYTES


def test_only_numbers_are_metrics() -> None:
    row = {"step": 3, "time": 5.0, "a": 1, "b": "nan", "c": "inf", "note": "text", "d": None, "e": [1]}
    assert str(numbers(row)) == "{'a': 1.0, 'b': nan, 'c': inf}"
