"""What is not what was saved is not trained on, and nobody begins anew over checkpoints that may still be mended."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_command import losses, start, train

from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import COMPLETE, STATE, list_checkpoints

pytestmark = pytest.mark.slow

SETTINGS = (
    "training.epochs=0.07",
    "evaluation.sets=[]",
    "training.checkpoint.every_steps=2",
)


@pytest.fixture(scope="module")
def run(shared_config: Path) -> RunDirectory:
    """Finished, and then left with the checkpoint of its fourth step alone, from which it has to go on."""
    run = train(shared_config, "--processes", "2", *SETTINGS, name="refused")
    for checkpoint in list_checkpoints(run.checkpoints):
        assert isinstance(checkpoint.state["probe_loss"], float)
        if checkpoint.step != 4:
            shutil.rmtree(checkpoint.path)
    return run


@pytest.fixture
def only(run: RunDirectory) -> Path:
    """The folder of the only checkpoint, which is put back after each test."""
    (found,) = list_checkpoints(run.checkpoints)
    return found.path


def refusal(shared_config: Path, *arguments: str) -> str:
    status, _, err = start(shared_config, *SETTINGS, *arguments, name="refused").finish()
    assert status == 2, err
    return err


def forge(folder: Path, file: str, change: float) -> None:
    """Change a weight and make every checksum right again."""
    tensors = load_file(folder / file)
    name = next(name for name in sorted(tensors) if name.startswith("master/head.weight"))
    tensors[name] = tensors[name] + change * torch.arange(tensors[name].numel()).remainder(7)
    save_file(tensors, folder / file)
    state = json.loads((folder / STATE).read_text())
    raw = (folder / file).read_bytes()
    state["files"][file] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / STATE).write_text(json.dumps(state))
    (folder / COMPLETE).write_text(hashlib.sha256((folder / STATE).read_bytes()).hexdigest())


def test_a_model_that_computes_something_else_is_refused_and_the_true_one_goes_on_anywhere(
    shared_config: Path, run: RunDirectory, only: Path, tmp_path: Path
) -> None:
    shutil.copytree(only, tmp_path / "whole")
    file = next(p.name for p in sorted(only.glob("*.safetensors")) if "master/head.weight" in str(load_file(p).keys()))
    forge(only, file, 0.05)
    assert [checkpoint.damage() for checkpoint in list_checkpoints(run.checkpoints)] == [None], "no checksum tells"
    text = refusal(shared_config, "--processes", "2")
    assert "step-00000004 does not compute what was saved: the loss of its fixed batch was 2." in text
    assert "or from an older step" in text

    shutil.rmtree(only)
    shutil.copytree(tmp_path / "whole", only)
    other = ("--processes", "1", "training.zero.stage=3")
    status, _, err = start(shared_config, *SETTINGS, *other, name="refused").finish()
    assert status == 0, err
    assert [step for step, _ in losses(run)] == list(range(1, 8))
    for checkpoint in list_checkpoints(run.checkpoints):
        if checkpoint.path != only:
            shutil.rmtree(checkpoint.path)


@pytest.mark.parametrize("damaged", [STATE, COMPLETE, "rank-00000.safetensors"])
def test_a_run_whose_only_checkpoint_is_damaged_is_not_begun_anew_without_a_word(
    shared_config: Path, run: RunDirectory, only: Path, damaged: str
) -> None:
    whole = (only / damaged).read_bytes()
    (only / damaged).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        text = refusal(shared_config, "--processes", "1")
        assert "step-00000004" in text
        assert "restore one of them, or move them away to start from the beginning" in text
        assert only.is_dir(), "nothing is deleted"
    finally:
        (only / damaged).write_bytes(whole)
