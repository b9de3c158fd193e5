"""`cait plan`: what it counts, what it promises, what it advises, and what it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cait_dist.cli import app, main
from cait_dist.config import RunConfig, load_config
from cait_dist.models import architecture
from cait_dist.planning.counting.communication import Network, count_traffic
from cait_dist.planning.counting.flops import count_macs, count_params
from cait_dist.planning.counting.numerics import numerics
from cait_dist.planning.counting.step_flops import recomputed_macs, step_flops
from cait_dist.planning.errors import PlanError
from cait_dist.planning.gpus import GPUS, find_gpu
from cait_dist.planning.rates.calibration import (
    AttentionTime,
    BareStep,
    Both,
    Calibration,
    Phases,
    ProductTime,
    Rates,
    save_calibration,
)
from cait_dist.planning.rates.step_time import Work, predict_step
from cait_dist.planning.run_plan import Request, RunPlan, plan_run
from cait_dist.planning.showing.advice import advice, basis, warnings

H200 = GPUS["h200"]
IMAGENET = 1_281_167


@pytest.fixture
def m48(tmp_path: Path) -> Path:
    path = tmp_path / "m48.yaml"
    path.write_text(
        "name: m48\n"
        "data: {path: nowhere}\n"
        "model: {name: cait_m48_448, drop_path_rate: 0.4}\n"
        "training: {global_batch: 1024, epochs: 10, ema_decay: 0.9999}\n"
        "evaluation: {weights: [raw]}\n"
    )
    return path


def config_of(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, list(overrides)).config


def plan_of(path: Path, *overrides: str, **wishes: Any) -> RunPlan:
    return plan_run(config_of(path, *overrides), Request(**({"gpus": 64, "gpu": H200} | wishes)))


def made_up_calibration(hardware: str = "NVIDIA H200") -> Calibration:
    """Round numbers: 10 TFLOP/s wherever products are, and a nanosecond for every element."""
    product = ProductTime(100, 100, 100, Both(2e6 / 1e13, 4e6 / 1e13))
    shape = ("chunked", 16, 784, 48)
    macs = 784**2 * (2 * 16 * 48 + 2 * 16**2)
    attention = AttentionTime(*shape, 1, Both(2 * macs / 1e13, 4 * macs / 1e13))
    bare = tuple(
        BareStep(stage, dim, 10, params, 2, Phases(0.0, 0.0, 1e-10 * params))
        for stage in range(4)
        for dim, params in ((4, 100), (192, 10_000_000))
    )
    rates = Rates((product,), (attention,), Both(1e-9, 1e-9), Both(1e-9, 1e-9), bare)
    return Calibration(
        hardware=hardware,
        device="cuda",
        threads=1,
        torch="2.13.0",
        commit=None,
        date="2026-11-26",
        clock="wall",
        rates={"fp32": rates, "bf16": rates},
        augment=0.0,
    )


def test_the_bound_is_the_peak_over_the_counted_operations(m48: Path) -> None:
    plan = plan_of(m48)
    macs = count_macs(architecture("cait_m48_448"))
    blocks = macs.linears + macs.attention + macs.head_mixing
    flops = 6 * (0.6 * blocks + macs.total - blocks)
    assert plan.recommended.policy == "none"
    assert plan.duration.images_per_second == pytest.approx(64 * 989e12 / flops)
    assert "no predictions" in basis(plan)


def test_hours_and_cost_follow_from_images_epochs_and_price(m48: Path) -> None:
    duration = plan_of(m48, images=IMAGENET, price=2.0).duration
    assert duration.steps == -(-10 * IMAGENET // 1024)
    assert duration.hours == pytest.approx(duration.steps * 1024 / duration.images_per_second / 3600)
    assert duration.gpu_hours == pytest.approx(64 * duration.hours)
    assert duration.cost == pytest.approx(2 * duration.gpu_hours)


def test_without_data_and_without_images_nothing_is_said_about_hours(m48: Path) -> None:
    assert plan_of(m48).duration.hours is None


def test_the_data_are_counted_where_they_are(tiny_config: Path) -> None:
    plan = plan_of(tiny_config, gpus=1)
    manifest = json.loads((Path(str(plan.situation.config.data.path)) / "train" / "manifest.json").read_text())
    assert plan.data_images == manifest["num_samples"]
    assert plan.situation.arch.num_classes == 10


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_largest_micro_batch_is_the_last_that_fits(m48: Path, stage: int) -> None:
    plan = plan_of(m48, gpu=GPUS["a100-40"])
    for option in plan.options:
        if option.stage == stage and 0 < option.most_images < 16:  # as many as a rank has, so nothing is accumulated
            budget = plan.situation.budget
            assert option.state.peak(option.activations.peak(option.most_images)) <= budget
            assert option.state.peak(option.activations.peak(option.most_images + 1)) > budget


def test_micro_batches_divide_the_global_batch_and_keep_pairs_together(m48: Path) -> None:
    for option in plan_of(m48, "augment.mixup=0.8", gpu=GPUS["a100-40"]).options:
        if option.fits:
            assert option.images * option.accumulation * 64 == 1024
            assert option.images % 2 == 0
            assert option.images <= option.most_images


def test_recomputation_is_advised_only_where_its_memory_is_needed(m48: Path) -> None:
    roomy, tight = (plan_of(m48, gpus=gpus, attention="eager", gpu=GPUS["a100-40"]) for gpus in (256, 1))
    assert roomy.recommended.policy == "none"
    assert "not needed" in " ".join(advice(roomy))
    assert tight.recommended.fits
    assert tight.recommended.peak_bytes <= tight.situation.budget


def test_what_does_not_fit_as_configured_is_warned_of(m48: Path) -> None:
    plan = plan_of(m48, "model.image_size=1536", "training.zero.stage=0", gpu=GPUS["a100-40"], attention="eager")
    assert not plan.configured.fits
    assert "does not fit" in warnings(plan)[0]
    assert plan.recommended.policy != "none"
    assert any("nothing that adds less fits" in line for line in advice(plan))


def test_a_network_that_cannot_fit_anything_is_refused_with_what_it_needs(m48: Path) -> None:
    with pytest.raises(PlanError, match=r"no way of running fits: even policy block .* GB for one image"):
        plan_of(m48, "model.image_size=6144", gpu=GPUS["a100-40"], attention="eager")


def test_a_loader_that_cannot_keep_up_is_warned_of(m48: Path) -> None:
    assert "8 nodes make 8,000" in " ".join(warnings(plan_of(m48, loader_rate=1000)))
    assert "loader" not in " ".join(warnings(plan_of(m48, loader_rate=1e6)))


def test_what_compilation_changes_is_not_counted_and_it_is_said(m48: Path) -> None:
    assert "compile" not in " ".join(warnings(plan_of(m48)))
    assert "training.compile is on" in " ".join(warnings(plan_of(m48, "training.compile=true")))


def test_what_products_of_8_bits_change_is_not_counted_and_it_is_said(m48: Path) -> None:
    assert "float8" not in " ".join(warnings(plan_of(m48)))
    assert "training.float8 is on" in " ".join(warnings(plan_of(m48, "training.float8=true")))


def test_traffic_by_stage() -> None:
    params, ranks = 1000, 4
    sent = [count_traffic(params, numerics("bf16", stage), stage, ranks, 1).total for stage in (0, 1, 2, 3)]
    assert sent == [8 * 750, 6 * 750, 6 * 750, 4 * 750]
    again = [count_traffic(params, numerics("bf16", stage), stage, ranks, 3).total for stage in (0, 1, 2, 3)]
    assert again == [8 * 750, 6 * 750, 14 * 750, 12 * 750]
    assert count_traffic(params, numerics("bf16", 1), 1, 1, 1).total == 0


def test_a_ring_is_as_fast_as_its_slowest_link() -> None:
    network = Network(8, within=450e9, between=50e9)
    assert network.bandwidth(8) == 450e9
    assert network.bandwidth(16) == 8 * 50e9
    assert Network(8, within=300e9, between=50e9).bandwidth(16) == 300e9


def test_scaling_leaves_out_what_cannot_be_divided(m48: Path) -> None:
    points = {point.gpus: point for point in plan_of(m48, "training.global_batch=192", gpus=32).scaling}
    assert points[32].efficiency is not None
    assert points[32].efficiency <= 1.001
    assert points[64].note == "the global batch cannot be divided"
    assert points[1].efficiency == 1


@pytest.mark.parametrize("policy", ["attention", "block", "every-2"])
def test_recomputation_adds_the_forward_pass_of_what_it_recomputes(policy: str) -> None:
    arch = architecture("cait_s24_224")
    macs = count_macs(arch)
    blocks = macs.linears + macs.attention + macs.head_mixing
    expected = {
        "attention": macs.linears / 3 + macs.attention + macs.head_mixing,
        "block": blocks,
        "every-2": blocks / 2,
    }[policy]
    assert recomputed_macs(arch, policy) == pytest.approx(expected)
    assert step_flops(arch, policy) - step_flops(arch, "none") == pytest.approx(2 * expected)


def test_a_step_is_the_sum_of_counted_work_at_measured_rates() -> None:
    arch = architecture("cait_m48_448")
    work = Work(images=2, accumulation=3, policy="none", backend="chunked", stage=1, share=0.5)
    time = predict_step(arch, numerics("bf16", 1), made_up_calibration(), work)
    macs = count_macs(arch)
    assert time.attention == pytest.approx(6 * 6 * (macs.attention + macs.head_mixing) / 1e13)
    assert time.linears == pytest.approx(
        6 * 6 * (macs.linears + macs.patch_embed + macs.class_attention) / 1e13, rel=0.01
    )
    assert time.update == pytest.approx(0.5 * 1e-10 * count_params(arch).total, rel=1e-4)
    assert time.recomputed == 0
    again = predict_step(arch, numerics("bf16", 1), made_up_calibration(), dataclasses.replace(work, policy="block"))
    blocks = macs.linears + macs.attention + macs.head_mixing
    elements = 6 * 48 * 784 * (2 * 768 + 3072)
    assert again.recomputed == pytest.approx(6 * 2 * blocks / 1e13 + elements * 1e-9)


def test_exchanges_hide_behind_the_backward_pass_where_they_may() -> None:
    arch, calibration = architecture("cait_xxs24_224"), made_up_calibration()
    work = Work(images=2, accumulation=1, policy="none", backend="chunked", stage=1, share=0.0, exchange=1e-4)
    assert predict_step(arch, numerics("bf16", 1), calibration, work).exposed == 1e-4
    hidden = dataclasses.replace(work, overlap=True)
    assert predict_step(arch, numerics("bf16", 1), calibration, hidden).exposed == 0


def test_on_a_gpu_what_the_host_does_hides_behind_the_tokens_and_on_a_cpu_it_does_not() -> None:
    arch, calibration = architecture("cait_xxs24_224"), made_up_calibration()
    slow = BareStep(1, 192, 26, count_params(arch).total, 2, Phases(1.0, 2.0, 0.0))
    thin = BareStep(1, 4, 26, 100, 2, Phases(0.0, 0.0, 0.0))
    rates = dataclasses.replace(calibration.rates["bf16"], bare=(thin, slow))
    calibration = dataclasses.replace(calibration, rates={"bf16": rates})

    def bare(device: str, policy: str) -> float:
        work = Work(images=2, accumulation=1, policy=policy, backend="chunked", stage=1)
        found = predict_step(arch, numerics("bf16", 1), dataclasses.replace(calibration, device=device), work)
        assert device == "cpu" or found.total - found.update - found.augmentation == pytest.approx(3.0)
        return found.bare

    assert bare("cpu", "none") == pytest.approx(3.0)
    assert bare("cpu", "block") == pytest.approx(4.0)
    assert 0 < bare("cuda", "none") < 3.0


def test_a_precision_that_was_not_measured_is_refused(m48: Path) -> None:
    calibration = made_up_calibration()
    calibration = dataclasses.replace(calibration, rates={"fp32": calibration.rates["fp32"]})
    with pytest.raises(PlanError, match="no rates in bf16, only in fp32: run `cait bench step`"):
        plan_of(m48, calibration=calibration)


def test_a_calibration_turns_bounds_into_predictions(m48: Path, tmp_path: Path) -> None:
    bound, predicted = plan_of(m48), plan_of(m48, calibration=made_up_calibration())
    assert predicted.duration.images_per_second < bound.duration.images_per_second
    assert predicted.recommended.time is not None
    assert "predictions" in basis(predicted)
    assert "NVIDIA H200, 2026-11-26" in basis(predicted)


def test_a_calibration_of_another_device_is_refused(m48: Path) -> None:
    with pytest.raises(PlanError, match="the calibration is of AMD EPYC, not of H200"):
        plan_of(m48, calibration=made_up_calibration("AMD EPYC"))


def test_a_backend_that_was_not_measured_is_refused(m48: Path) -> None:
    with pytest.raises(PlanError, match="no times of the attention 'eager'"):
        plan_of(m48, calibration=made_up_calibration(), attention="eager")


def test_gpus_are_found_by_the_names_that_drivers_give() -> None:
    names = {"a100-40": "NVIDIA A100-SXM4-40GB", "a100-80": "NVIDIA A100-SXM4-80GB", "h200": "NVIDIA H200"}
    for name, driver in names.items():
        assert [gpu.name for gpu in GPUS.values() if made_up_calibration(driver).suits(gpu)] == [name]
    assert find_gpu("H100").memory == 80 * 10**9


def test_the_command_prints_a_screen_and_all_of_it_as_json(m48: Path, tmp_path: Path) -> None:
    arguments = ["plan", str(m48), "--gpus", "64", "--images", str(IMAGENET), "--calibration"]
    file = tmp_path / "calibration.json"
    save_calibration(made_up_calibration(), file)
    picture = tmp_path / "plan.svg"
    printed = CliRunner().invoke(app, [*arguments, str(file), "--picture", str(picture)])
    assert printed.exit_code == 0, printed.output
    assert len(printed.stdout.splitlines()) < 50
    for word in ("356.46 M", "329.11 G", "attention chunked", "predicted:", "steady", "GPU-hours", "Run at ZeRO"):
        assert word in printed.stdout
    assert picture.read_text().startswith("<?xml")
    told = json.loads(CliRunner().invoke(app, [*arguments, str(file), "--json"]).stdout)
    assert told["times_are"] == "predictions"
    assert len(told["options"]) == 16
    assert sum(value for key, value in told["macs"].items() if key != "total") == told["macs"]["total"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "h300"], "there are a100-40, a100-80, h100, h200"),
        (["--gpus", "0"], "--gpus must be at least 1"),
        (["--gpus", "48"], "set training.global_batch to 960 or 1056, or run on 1, 2, 4, 8, 16, 32, 64 processes"),
        (["--gpus-per-node", "0"], "--gpus-per-node must be at least 1"),
        (["--images", "0"], "--images must be at least 1"),
        (["--reserve", "1.5"], "--reserve must be a share"),
        (["--attention", "flash"], "there are eager, chunked, native, fused"),
        (["--calibration", "missing.json"], "`cait bench step` writes it"),
        (["model.image_size=450"], "image_size 450 is not a multiple of patch_size 16"),
        (["training.zero.stage=4"], "training.zero.stage"),
    ],
)
def test_bad_input_ends_with_a_line_and_status_2(
    m48: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cait", "plan", str(m48), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_attention_is_the_one_that_such_a_gpu_runs(m48: Path) -> None:
    assert plan_of(m48).situation.backend == "fused"
    assert plan_of(m48, calibration=made_up_calibration()).situation.backend == "chunked"
    assert plan_of(m48, attention="eager").situation.backend == "eager"
    assert plan_of(m48, "model.image_size=208").situation.backend == "eager"
    assert plan_of(m48, "model.talking_heads=false").situation.backend == "plain"
