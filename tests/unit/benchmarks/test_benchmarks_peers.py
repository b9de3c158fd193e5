"""The comparison with peers: one function for all, batches that fit, a machine that has little but torch and timm."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cait_dist.config import load_config
from cait_dist.models import architecture
from cait_dist.ops import available_backends
from cait_dist.planning.counting.gpu_demand import FLOPS_PER_MAC, PEAK_FLOPS
from parts import peak_rate
from parts.peak_rate import block_flops, peak_flops, step_flops
from parts.peers.batches import largest_that_fits, search_batches
from parts.peers.contenders import Case, block_contenders, dropping_contenders, recipe_drop_rate, step_contenders
from parts.peers.memory import _ask
from parts.peers.picture import draw
from parts.timing import Contender, Manner

ROOT = Path(__file__).resolve().parents[3]
CPU = torch.device("cpu")
MANNER = Manner(CPU, "fp32", rounds=1)
CASE = Case(architecture("cait_xxs24_224", image_size=32, depth=2, drop_path_rate=0.4), CPU, compiled=False)
TINY = ["--device", "cpu", "--model", "cait_xxs24_224", "--image-size", "32", "--depth", "1", "--batch", "2"]
WHO = ["timm", "deit", "ours chunked", "ours, all computed", "ours, 0.3 skipped"]
ABSENT = ("deepspeed", "pydantic", "mlflow", "webdataset", "yaml", "typer", "rich", "psutil", "matplotlib")


@pytest.mark.parametrize("contenders", [block_contenders, step_contenders])
def test_all_that_compute_everything_compute_the_same(contenders):
    values = {name: make(3).run().item() for name, make in contenders(CASE).items() if "skipped" not in name}
    assert {f"ours {backend}" for backend in available_backends()} | {"timm", "timm recomputed"} <= set(values)
    assert values == pytest.approx(dict.fromkeys(values, values["timm"]), rel=1e-5)


def test_a_step_with_recomputed_blocks_has_the_same_gradients_and_shares_the_parameters():
    made = step_contenders(CASE)
    plain, recomputed = made["ours chunked"](3), made["ours recomputed"](3)
    assert [id(leaf) for leaf in plain.leaves] == [id(leaf) for leaf in recomputed.leaves]
    gradients = []
    for contender in (plain, recomputed):
        contender.run().backward()
        gradients.append([leaf.grad.clone() for leaf in contender.leaves])
        for leaf in contender.leaves:
            leaf.grad = None
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("contenders", "rate"), [(dropping_contenders, 0.3), (step_contenders, 0.4)])
def test_what_is_skipped_is_drawn_anew_for_every_run_at_the_rate_it_says(contenders, rate):
    contender = contenders(CASE)[f"ours, {rate} skipped"](8)
    shares = []
    for _ in range(12):
        contender.run()
        shares.append(contender.facts["computed_share"])
    assert len(set(shares)) > 1
    assert sum(shares) / len(shares) == pytest.approx(1 - rate, abs=0.12)


def test_drop_rates_are_those_of_the_configurations():
    configs = [*ROOT.glob("configs/cait_*.yaml"), *ROOT.glob("configs/finetune/cait_*.yaml")]
    assert len(configs) > 20
    rates = {config.stem: load_config(config).config.model.drop_path_rate for config in configs}
    assert {name: recipe_drop_rate(name) for name in rates} == rates


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 9, 40, 63, 64])
def test_the_largest_batch_is_found_with_few_tries(limit):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    assert largest_that_fits(fits, at_most=64) == limit
    assert len(tried) <= 12
    assert len(set(tried)) == len(tried)


def computing(seconds_of, limit, error=torch.OutOfMemoryError):
    def make(batch):
        weight = torch.ones(1, requires_grad=True)

        def run():
            if batch > limit:
                raise error("no room")
            time.sleep(seconds_of(batch))
            return weight.sum()

        return Contender(run, [weight])

    return make


def test_a_contender_is_told_at_its_largest_and_at_its_fastest_batch():
    by_the_wall = replace(MANNER, threads=2)
    found = search_batches(computing(lambda batch: 0.06 if batch <= 4 else 0.4, 13), by_the_wall, 64, 60)
    assert (found["largest_batch"], found["best_batch"], found["failed"]) == (13, 4, None)
    assert {tried["batch"] for tried in found["tried"]} >= {1, 2, 4, 8, 13}


def test_when_the_time_is_up_the_largest_so_far_is_told_as_incomplete():
    found = search_batches(computing(lambda _: 0.01, 1000), replace(MANNER, threads=2), 4096, 0.15)
    assert found["incomplete"]
    assert 1 <= found["largest_batch"] < 1000


def test_too_little_memory_for_one_sample_and_other_errors_are_told_apart():
    nothing = search_batches(computing(lambda _: 0, 0), MANNER, 64, 60)
    assert (nothing["largest_batch"], nothing["failed"]) == (0, "not even one sample fits")
    broken = search_batches(computing(lambda _: 0, 2, RuntimeError), MANNER, 64, 60)
    assert (broken["largest_batch"], broken["failed"]) == (2, "RuntimeError: no room")


GROWTH = """
import json, torch
from parts.peers.memory import grow_here
from parts.timing import Contender, Manner

kept, weight = torch.ones(50 * 2**18), torch.ones(1, requires_grad=True)
run = lambda: (weight * torch.ones(30 * 2**18)).sum() + kept[0]
print(json.dumps(grow_here(lambda: Contender(run, [weight]), Manner(torch.device("cpu"), "fp32", rounds=1))))
"""


def test_growth_is_what_a_run_holds_at_most_and_nothing_of_what_was_there_before(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'benchmarks'}")
    grown = _ask(["-c", GROWTH])["growth_bytes"] / 2**20
    assert 55 < grown < 95  # two tensors of 30 MiB, perhaps a third in the backward pass


def test_a_fresh_process_that_fails_is_a_result():
    failed = _ask(["-c", "import sys; sys.exit('killed for memory')"])["failed"]
    assert failed == "its process ended with 1: killed for memory"


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", (PEAK_FLOPS["H100"], "datasheet, dense bf16")),
        ("NVIDIA H100 80GB HBM3", "fp32", (None, None)),
        ("NVIDIA L4", "bf16", (None, None)),
    ],
)
def test_the_peak_of_a_gpu_is_that_which_plans_are_made_with(monkeypatch, name, precision, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), precision) == expected


@pytest.mark.parametrize("fastest", peak_rate.PRODUCTS)
@pytest.mark.parametrize(("rate", "side"), [(4e10, 1536), (1.4e9, 384), (1e6, 192)])
def test_the_peak_of_a_cpu_is_that_of_its_fastest_large_product_that_does_not_take_too_long(
    monkeypatch, rate, side, fastest
):
    tried = []

    def seconds(product, side, dtype):
        tried.append((side, FLOPS_PER_MAC * side**3 / rate * (1 if product is fastest else 10)))
        return tried[-1][1]

    monkeypatch.setattr(peak_rate, "_seconds", seconds)
    assert peak_flops(CPU, "bf16") == (pytest.approx(rate), f"product of {side}² matrices")
    assert all(taken <= peak_rate.LONGEST for side, taken in tried if side > peak_rate.SIDES[0])


def test_a_step_asks_for_three_forward_passes_and_a_block_for_its_share():
    arch = architecture("cait_m48_448")
    assert step_flops(arch) == pytest.approx(1.975e12, rel=2e-3)
    assert block_flops(arch) == pytest.approx(3 * 13.62e9, rel=2e-3)


def test_a_picture_has_a_bar_for_everyone_and_a_word_for_who_failed():
    base = {"what": "step", "precision": "fp32", "failed": None, "measurement": "step"}
    results = [
        {**base, "contender": "timm", "times_faster_than_timm": 1.0},
        {**base, "contender": "ours chunked", "times_faster_than_timm": 1.62},
        {**base, "contender": "ours compiled", "failed": "an error", "times_faster_than_timm": None},
    ]
    picture = draw(results, "one core")
    assert all(text in picture for text in ("ours chunked", "1.62", "failed", "one core"))


def test_it_runs_where_there_is_nothing_but_torch_and_timm(tmp_path):
    blocked = f"import sys\nfor name in {ABSENT}:\n    sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    program, out = str(ROOT / "benchmarks/peers.py"), tmp_path / "peers.json"
    asked = [program, *TINY, "--rounds", "1", "--no-compile", "--deit", str(tmp_path), "--at-most", "1"]

    asked += ["--contenders", *WHO]

    def run(*more):
        command = [sys.executable, *asked, *more]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    said = run("--only", "block", "step", "largest-batch", "--out", str(out), "--plot", str(tmp_path / "peers.svg"))
    assert "no picture without matplotlib" in said
    record = json.loads(out.read_text())
    assert {"command", "date", "hardware", "versions", "load_average"} <= set(record)
    assert {"torch", "timm"} <= set(record["versions"])
    done = {(row["measurement"], row["contender"]) for row in record["results"] if row["failed"] is None}
    wanted = {(what, who) for what in ("block", "step", "largest-batch") for who in ("timm", "ours chunked")}
    assert done == wanted | {("block", "ours, all computed"), ("block", "ours, 0.3 skipped")}
    assert all(0 < row["mfu"] < 1 for row in record["results"] if row["failed"] is None)
    failed = {row["contender"]: row["failed"] for row in record["results"] if row["failed"]}
    assert set(failed) == {"deit"}
    assert "has no cait_models.py" in failed["deit"]

    grown = json.loads(run("--kind", "step", "--memory-of", "ours chunked").splitlines()[-1])
    assert grown["growth_bytes"] > 0
