"""Corrupt data in training: by default the run ends and says where; if so configured, other samples stand in."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from training_command import losses, start

from cait_dist.data.reader_webdataset import open_split
from cait_dist.tracking.metrics import read_metrics, series
from cait_dist.tracking.run_directory import RunDirectory
from cait_dist.training.saving.checkpoint_files import list_checkpoints

pytestmark = pytest.mark.slow
SKIP = ("data.on_corrupt=skip", "data.most_corrupt_share=0.2", "training.epochs=0.5")
BROKEN = 1
CUT_OFF = 6
"""samples at the end of the last shard that are not there any more"""
MOST, LEAST_SHARE = 3, 0.0025
"""as many may be corrupt, of 1,438"""


@pytest.fixture(scope="module")
def damaged(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image that cannot be decoded, and a shard that ends early."""
    copy = tmp_path_factory.mktemp("damaged") / "digits"
    shutil.copytree(digits, copy)
    reader = open_split(digits, "train")
    rows = reader._samples  # type: ignore[union-attr]
    folder = copy / "train"
    with (folder / reader.shards[rows[BROKEN]["shard"]].name).open("r+b") as file:  # type: ignore[union-attr]
        file.seek(int(rows[BROKEN]["offset"]) + 2)
        file.write(bytes(int(rows[BROKEN]["size"]) - 2))
    first_gone = rows[reader.num_samples - CUT_OFF]
    os.truncate(folder / reader.shards[first_gone["shard"]].name, int(first_gone["offset"]) + 10)  # type: ignore[union-attr]
    return copy


def quarantined(run: RunDirectory, attempt: int) -> list[dict[str, Any]]:
    file = run.attempt(attempt) / "quarantine.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_others_stand_in_the_same_on_any_number_of_ranks_and_after_too_many_have_ended_the_run(
    tiny_config: Path, damaged: Path
) -> None:
    arguments = (*SKIP, f"data.path={damaged}", "training.epochs=1.1")
    one = start(tiny_config, "--processes", "1", *arguments, name="one")
    assert (told := one.finish())[0] == 0, told
    on_two = ("--processes", "2", "data.workers=1", *arguments)
    two = start(tiny_config, *on_two, f"data.most_corrupt_share={LEAST_SHARE}", name="two")
    status, _, err = two.finish()
    assert status == 2, err
    assert f"data.most_corrupt_share={LEAST_SHARE} lets {MOST} be left out" in err
    assert "quarantine.jsonl names them" in err
    assert "Traceback" not in err
    assert MOST < len(quarantined(two.run, 1)) < 1 + CUT_OFF
    checkpoint = list_checkpoints(two.run.checkpoints)[-1]
    assert 1 <= len(checkpoint.state["quarantine"]) <= MOST
    two = start(tiny_config, *on_two, name="two")
    assert (again := two.finish())[0] == 0, again

    assert [loss for _, loss in losses(two.run)] == pytest.approx([loss for _, loss in losses(one.run)], rel=1e-4)
    found = quarantined(one.run, 1)
    assert BROKEN in {entry["sample"] for entry in found}
    assert len(found) == len({entry["sample"] for entry in found}) == 1 + CUT_OFF, "each once"
    assert all(entry["name"] and "cait verify" in entry["reason"] for entry in found)
    assert [value for _, value in series(read_metrics(one.run), "data/quarantined")][-1] == 1 + CUT_OFF
    assert "cait verify" in told[1]
    assert {entry["sample"] for k in (1, 2) for entry in quarantined(two.run, k)} == {e["sample"] for e in found}
    counted = [value for _, value in series(read_metrics(two.run), "data/quarantined")]
    assert counted == sorted(counted), "over the run, whatever ended its attempts"
    assert counted[-1] == 1 + CUT_OFF > len(quarantined(two.run, 2))


def test_by_default_a_shard_that_ends_early_ends_the_run_at_once(tiny_config: Path, damaged: Path) -> None:
    status, _, err = start(tiny_config, "--processes", "2", f"data.path={damaged}", name="default").finish()
    assert status == 2
    assert "the manifest states" in err
    assert "Traceback" not in err
