"""The input of a run, measured on real digits; and the arithmetic of what a GPU takes in."""

import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from cait_dist.cli import app, main
from cait_dist.config import RunConfig, load_config
from cait_dist.config.model import ModelConfig
from cait_dist.models import architecture
from cait_dist.planning.counting.flops import count_macs
from cait_dist.planning.counting.gpu_demand import demand, demands
from cait_dist.planning.input.bench import BenchError, InputReport, bench_input
from cait_dist.planning.input.parts import WorkerParts
from cait_dist.planning.input.report import limiting_part, print_report

SECONDS = 0.4


def config_of(path: Path, *overrides: str) -> RunConfig:
    return load_config(path, list(overrides)).config


@pytest.fixture(scope="module")
def config(shared_config: Path) -> RunConfig:
    return config_of(shared_config, "data.workers=1", "training.global_batch=64")


@pytest.fixture(scope="module")
def report(config: RunConfig) -> InputReport:
    return bench_input(config, SECONDS, cold=True)


def printed(config: RunConfig, report: InputReport, mfu: float = 0.4) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_report(config, report, mfu, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_part_takes_time_and_together_no_more_than_the_loader(report: InputReport) -> None:
    assert report.parts is not None
    assert report.loader.cpu_seconds is not None
    assert all(seconds > 0 for seconds in dataclasses.asdict(report.parts).values())
    # The loader does all of it and sends batches between processes besides; a tenth is for the noise of the machine.
    assert report.parts.total <= 1.1 * report.loader.cpu_seconds


def test_the_loader_cannot_be_faster_than_its_processor_time_allows(report: InputReport) -> None:
    # Two processes at most are at work: the worker, and the one that takes the batches.
    assert report.loader.images_per_second * report.cpu_seconds < 2.2


def test_the_rest_is_filled_in(report: InputReport) -> None:
    assert (report.image_size, report.batch, report.workers, report.num_classes) == (16, 64, 1, 10)
    assert report.cold_read is not None
    assert report.cold_read > 0
    assert report.on_device.augment > 0
    assert (report.on_device.copy is None) == (not torch.cuda.is_available())


def test_decoding_without_workers_costs_no_more_processes(config: RunConfig) -> None:
    alone = bench_input(config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})}), SECONDS)
    assert alone.workers == 0
    # One process cannot use more than one core.
    assert alone.loader.images_per_second * alone.cpu_seconds < 1.1


def test_the_slowest_part_is_named(report: InputReport, config: RunConfig) -> None:
    slow = dataclasses.replace(report, parts=WorkerParts(read=0.001, decode=0.006, crop=0.002, collate=0.001))
    assert limiting_part(slow) == ("decode", pytest.approx(0.6))
    assert "What limits a worker: decode, 60% of its time." in printed(config, slow)


def test_where_parts_cannot_be_told_apart_it_is_said(report: InputReport, config: RunConfig) -> None:
    whole = dataclasses.replace(report, parts=None)
    assert limiting_part(whole) is None
    assert "cannot be told apart" in printed(config, whole)


def test_demand_is_the_share_of_the_peak_over_six_flop_per_multiply_add() -> None:
    arch = architecture("cait_s24_224")
    found = demand("x", arch, 0.5)
    assert found.images_per_second["A100"] == pytest.approx(0.5 * 312e12 / (6 * count_macs(arch).total))
    assert found.images_per_second["H200"] == found.images_per_second["H100"]


def test_all_ten_variants_are_shown_at_the_resolution_of_the_run() -> None:
    found = demands(ModelConfig(name="cait_s24_224", image_size=448), 1000, 0.4)
    assert len(found) == 11
    by_name = {row.model: row.images_per_second["A100"] for row in found}
    assert by_name["this configuration"] == by_name["cait_s24 at 448"] > by_name["cait_m48 at 448"]
    assert by_name["cait_m48 at 448"] == pytest.approx(
        0.4 * 312e12 / (6 * count_macs(architecture("cait_m48_448")).total)
    )


def test_where_the_variants_do_not_fit_the_run_stands_alone() -> None:
    own = ModelConfig(image_size=24, patch_size=4, embed_dim=96, depth=4, num_heads=4)
    assert [row.model for row in demands(own, 10, 0.4)] == ["this configuration"]


def test_supply_over_demand_is_the_number_of_gpus(report: InputReport, config: RunConfig) -> None:
    text = printed(config, dataclasses.replace(report, cores=8), mfu=0.25)
    wanted = demands(config.model, 10, 0.25)[0].images_per_second["A100"]
    assert "8 cores can feed, at an assumed MFU of 0.25" in text
    assert f"{wanted:,.0f}/s  {8 / report.cpu_seconds / wanted:,.2f}" in text


def test_the_command_prints_both_tables(shared_config: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "data", str(shared_config), "data.workers=0", "--seconds", "0.1"])
    assert done.exit_code == 0
    for word in ("decode", "whole loader", "page cache", "assumed MFU of 0.4", "H200"):
        assert word in done.stdout


def test_the_command_prints_numbers_for_scripts(shared_config: Path) -> None:
    arguments = ["bench", "data", str(shared_config), "data.workers=0", "--seconds", "0.1", "--mfu", "0.2", "--json"]
    found = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert found["node_images_per_second"] == pytest.approx(found["cores"] / found["cpu_seconds"])
    assert found["parts"]["decode"] > 0
    own = demands(config_of(shared_config).model, found["num_classes"], 0.2)[0]
    assert found["demand"][own.model] == pytest.approx(own.images_per_second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.train_split=trian"], "has no split 'trian'"),
        (["data.decoder=ffcv"], "data.decoder is ffcv"),
        (["data.format=ffcv"], "data.format=ffcv"),
        (["data.wrokers=1"], "data.wrokers"),
    ],
)
def test_bad_input_ends_with_a_message_and_status_2(
    shared_config: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("sys.argv", ["cait", "bench", "data", str(shared_config), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_assumed_share_must_be_a_share(shared_config: Path) -> None:
    assert CliRunner().invoke(app, ["bench", "data", str(shared_config), "--mfu", "40"]).exit_code == 2


def test_cold_reads_need_a_disk(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.posix_fadvise")
    with pytest.raises(BenchError, match="leave it out"):
        bench_input(config, SECONDS, cold=True)
