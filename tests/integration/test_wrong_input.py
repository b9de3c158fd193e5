"""Ways to be wrong: each gets one clear message that names place and remedy, status 2, and nothing is written."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from training_command import CAIT

from cait_dist.tracking.run_directory import RunDirectory

Outcome = tuple[int, str, str]

CASES: dict[str, tuple[list[str], list[str]]] = {
    "typo in a section": (["train", "{config}", "optimizr.lr=1"], ["command line", "optimizr", "did you mean"]),
    "typo one level down": (["train", "{config}", "training.epochz=1"], ["training.epochz", "training.epochs"]),
    "typo two levels down": (["train", "{config}", "training.zero.stag=2"], ["training.zero.stage"]),
    "typo at the top": (["train", "{config}", "sed=1"], ["sed", "seed"]),
    "word for a number": (["train", "{config}", "training.epochs=four"], ["training.epochs", "'four'"]),
    "fraction for a count": (["train", "{config}", "training.global_batch=16.5"], ["training.global_batch", "whole"]),
    "value outside its range": (["train", "{config}", "model.drop_path_rate=1.5"], ["model.drop_path_rate", "1.5"]),
    "unknown variant": (
        ["train", "{config}", "model.name=cait_s24_225"],
        ["model.name", "did you mean 'cait_s24_224'"],
    ),
    "unknown policy": (
        ["train", "{config}", "training.activation_checkpointing=evry-2"],
        ["training.activation_checkpointing", "every-K"],
    ),
    "unknown ZeRO stage": (["train", "{config}", "training.zero.stage=4"], ["training.zero.stage", "4"]),
    "override without value": (["train", "{config}", "training.epochs"], ["training.epochs", "="]),
    "missing configuration": (["train", "{folder}/absent.yaml"], ["absent.yaml"]),
    "missing data": (["train", "{config}", "data.path={folder}/nowhere"], ["nowhere"]),
    "missing split": (["train", "{config}", "data.train_split=trian"], ["trian", "train"]),
    "truncated shard": (["train", "{config}", "data.path={truncated}"], ["{truncated}", "cait"]),
    "run directory in use": (["train", "{config}", "name=busy"], ["busy", "in use by process", "name="]),
    "more processes than samples in a batch": (
        ["train", "{config}", "--processes", "64"],
        ["training.global_batch 16 cannot be split over 64 processes", "128"],
    ),
    "batch larger than the data": (
        ["train", "{config}", "training.global_batch=4096", "training.epochs=9"],
        ["training.global_batch 4096 exceeds"],
    ),
    "shape that does not fit": (["train", "{config}", "model.num_heads=5"], ["24", "5"]),
    "widths that products of 8 bits cannot have": (
        ["train", "{config}", "training.precision=bf16", "training.float8=true"],
        ["model.embed_dim", "training.float8", "multiple of 16", "24"],
    ),
    "missing weights": (["train", "{config}", "model.init_from={folder}/none.pth"], ["model.init_from", "none.pth"]),
    "average that is not kept": (
        ["train", "{config}", "training.ema_decay=null"],
        ["training.ema_decay", "evaluation.weights"],
    ),
    "checkpoint that does not exist": (["train", "{config}", "--resume", "77"], ["--resume 77", "none"]),
    "no such source": (["prep", "{folder}/nothing", "--out", "{folder}/out"], ["nothing", "no such folder"]),
    "no run to export": (["export", "{folder}/norun", "--out", "{folder}/w.safetensors"], ["norun", "run directory"]),
    "zero processes": (["train", "{config}", "--processes", "0"], ["processes"]),
}


@pytest.fixture(scope="module")
def places(shared_config: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import shutil  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("wrong")
    config = folder / "tiny.yaml"
    config.write_text(shared_config.read_text().replace(str(shared_config.parent / "runs"), str(folder / "runs")))
    truncated = folder / "truncated"
    shutil.copytree(digits, truncated)
    shard = sorted((truncated / "train").glob("*.tar"))[2]
    shard.write_bytes(shard.read_bytes()[:-5000])
    return {"config": config, "folder": folder, "truncated": truncated}


@pytest.fixture(scope="module")
def outcomes(places: dict[str, Path]) -> dict[str, Outcome]:
    RunDirectory(places["folder"] / "runs" / "busy").lock()
    before = snapshot(places["folder"])

    def run(name: str) -> Outcome:
        command = [str(CAIT), *(argument.format(**places) for argument in CASES[name][0])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(CASES, pool.map(run, CASES), strict=True))
    assert snapshot(places["folder"]) == before, "something was written"
    return results


def snapshot(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_it_ends_with_status_2_and_says_what_and_where(
    outcomes: dict[str, Outcome], places: dict[str, Path], name: str
) -> None:
    status, out, err = outcomes[name]
    assert status == 2, out + err
    for word in CASES[name][1]:
        assert word.format(**places) in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6, err
