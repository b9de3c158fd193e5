"""Cluster profiles: all of ours are valid, options win, and what is wrong is named with its place."""

from pathlib import Path

import pytest
import yaml

from cait_dist.config import ConfigError
from launch.profile import PROFILES, load_profile, profile_names


@pytest.mark.parametrize("name", [name for name in profile_names() if name != "local"])
def test_every_profile_is_valid_and_says_what_it_is(name: str) -> None:
    profile = load_profile(name, {})
    assert profile.description
    assert profile.signal_seconds * 10 <= profile.minutes * 60


def test_options_win_over_the_file() -> None:
    profile = load_profile("a100x4", {"nodes": 3, "gpus_per_node": 2, "time": "30", "partition": None})
    assert (profile.nodes, profile.tasks, profile.world_size, profile.minutes) == (3, 2, 6, 30)
    assert profile.memory_gb == yaml.safe_load((PROFILES / "a100x4.yaml").read_text())["memory_gb"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("partitoin: main", ["mine.yaml:1:1", "'partitoin'", "did you mean 'partition'"]),
        ("limits:\n  tme: 1:00:00", ["mine.yaml:2:3", "'limits.tme'", "did you mean 'time'"]),
        ("nodes: 0", ["mine.yaml:1:1", "'nodes'", "greater than or equal to 1"]),
        ("time: 12:00", ["mine.yaml:1:1", "'time'", "D-HH:MM:SS"]),
        ("time: 2\nsignal_seconds: 120", ["signal_seconds (120)", "shorter than the time limit"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, says: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_profile(str(path), {})
    for word in says:
        assert word in str(caught.value)


def test_a_wrong_option_is_named_as_the_option() -> None:
    with pytest.raises(ConfigError, match="--gpus-per-node"):
        load_profile("generic", {"gpus_per_node": -1})
