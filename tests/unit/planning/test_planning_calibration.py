"""Rates measured on this machine, and the file that keeps them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cait_dist.config import RunConfig, load_config
from cait_dist.models import architecture
from cait_dist.planning.counting.flops import count_macs
from cait_dist.planning.errors import PlanError
from cait_dist.planning.rates.calibration import (
    BareStep,
    Calibration,
    Phases,
    add_to_file,
    attention_macs,
    default_path,
    load_calibration,
    save_calibration,
)
from cait_dist.planning.rates.step_bench import StepBench

BARE = (
    BareStep(0, 4, 10, 1_000, 2, Phases(0.1, 0.2, 0.001)),
    BareStep(0, 192, 20, 1_000_000, 2, Phases(1.2, 0.4, 0.012)),
    BareStep(3, 4, 10, 1_000, 2, Phases(1.0, 1.0, 1.0)),
)
"""narrow, wide, and at another stage"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    path = tmp_path_factory.mktemp("calibration") / "plan.yaml"
    path.write_text("name: plan\ndata: {path: nowhere}\ntraining: {global_batch: 8}\n")
    return load_config(path, []).config


@pytest.fixture(scope="module")
def measured(config: RunConfig) -> Calibration:
    arch = architecture("cait_xxs24_224", image_size=64, depth=2, num_classes=10)
    return StepBench(torch.device("cpu"), 0.0).measure(config, arch, 2, ["eager", "chunked"], BARE, "abc")


def test_everything_takes_time(measured: Calibration) -> None:
    rates = measured.at("bf16")
    parts = [*(p.seconds for p in rates.products), *(a.seconds for a in rates.attention), rates.stream, rates.gelu]
    assert all(part.forward > 0 and part.backward > 0 for part in parts)
    assert measured.augment > 0


def test_it_says_where_and_with_what_it_was_measured(measured: Calibration) -> None:
    assert measured.torch == torch.__version__
    assert measured.device == "cpu"
    assert measured.threads == torch.get_num_threads()
    assert measured.clock == ("processor" if measured.threads == 1 else "wall")
    assert measured.commit == "abc"


def test_the_shapes_are_those_of_the_model(measured: Calibration) -> None:
    shapes = [(p.rows, p.inner, p.outer) for p in measured.at("bf16").products]
    assert shapes == [(32, 192, 576), (32, 192, 192), (32, 192, 768), (32, 768, 192), (2, 192, 192)]
    assert [a.backend for a in measured.at("bf16").attention] == ["eager", "chunked"]


def test_the_precision_is_that_of_the_run_and_no_other_is_guessed(measured: Calibration) -> None:
    assert list(measured.rates) == ["bf16"]
    with pytest.raises(PlanError, match="no rates in fp32, only in bf16: run `cait bench step`"):
        measured.at("fp32")


def test_a_bare_step_is_so_much_a_block_and_so_much_a_parameter(measured: Calibration) -> None:
    rates = dataclasses.replace(measured.at("bf16"), bare=BARE)
    assert vars(rates.bare_step(0, 192, 20, 1_000_000)) == pytest.approx(vars(BARE[1].seconds))
    # Of the wide one 20 blocks take 0.2 s forward, so a million parameters take 1 s.
    assert vars(rates.bare_step(0, 200, 40, 3_000_000)) == pytest.approx(
        {"forward": 0.4 + 3.0, "backward": 0.8, "update": 0.004 + 0.03}
    )
    assert rates.bare_step(3, 192, 10, 1_000).forward == pytest.approx(1.0)


def test_the_products_of_a_bare_step_are_left_to_the_tokens(measured: Calibration) -> None:
    narrow, wide, other = measured.at("bf16").bare
    assert (narrow, other) == (BARE[0], BARE[2])
    assert 0 < wide.seconds.forward < BARE[1].seconds.forward
    assert wide.seconds.backward < BARE[1].seconds.backward
    assert wide.seconds.update == BARE[1].seconds.update


def test_multiply_adds_of_an_attention_are_those_of_the_count() -> None:
    arch = architecture("cait_s24_224")
    macs = count_macs(arch)
    assert 24 * attention_macs("chunked", 8, 196, 48) == macs.attention + macs.head_mixing
    assert 24 * attention_macs("plain", 8, 196, 48) == macs.attention


def test_what_was_measured_is_given_back_and_other_shapes_by_their_work(measured: Calibration) -> None:
    rates = measured.at("bf16")
    first = rates.products[0]
    assert rates.product(first.rows, first.inner, first.outer) == first.seconds
    assert rates.product(2 * first.rows, first.inner, first.outer).forward == pytest.approx(2 * first.seconds.forward)
    attention = rates.attention[1]
    twice = rates.attend("chunked", attention.heads, attention.tokens, attention.head_dim, 2 * attention.images)
    assert twice.backward == pytest.approx(2 * attention.seconds.backward)


def test_a_file_gives_back_what_was_written(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calibration.json"
    save_calibration(measured, path)
    assert load_calibration(path) == measured
    assert [entry.name for entry in path.parent.iterdir()] == ["calibration.json"]


def test_other_shapes_are_added_and_the_same_ones_replaced(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    add_to_file(measured, path)
    rates = measured.at("bf16")
    wider = dataclasses.replace(rates.products[0], inner=384, outer=1152)
    again = dataclasses.replace(rates.products[1], seconds=rates.products[1].seconds * 2)
    other = dataclasses.replace(BARE[1], dim=384)
    newer = dataclasses.replace(rates, products=(wider, again), bare=(other,))
    add_to_file(dataclasses.replace(measured, rates={"bf16": newer}), path)
    found = load_calibration(path).at("bf16").products
    assert wider in found
    assert again in found
    assert rates.products[1] not in found
    assert len(found) == len(rates.products) + 1
    assert load_calibration(path).at("bf16").bare == (other, *rates.bare)


def test_rates_in_another_precision_stay(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    add_to_file(measured, path)
    add_to_file(dataclasses.replace(measured, rates={"fp32": measured.at("bf16")}), path)
    assert set(load_calibration(path).rates) == {"bf16", "fp32"}


def test_rates_of_another_machine_are_not_mixed_in(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    add_to_file(dataclasses.replace(measured, hardware="another", augment=1.0), path)
    add_to_file(measured, path)
    assert load_calibration(path) == measured


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 2, "rates": 3}'])
def test_what_is_no_calibration_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"calibration.json is no calibration: `cait bench step` writes them"):
        load_calibration(path)


def test_a_calibration_of_another_version_is_refused(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    save_calibration(measured, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with pytest.raises(PlanError, match="another version"):
        load_calibration(path)


def test_the_usual_place_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_path() == Path("/somewhere/cait-dist/calibration.json")
