"""Many files are checked at once; a recipe counts as right where a file that is checked with it builds on it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cait_dist.config import ConfigError, validate

CAIT = Path(sys.executable).with_name("cait")
ROOT = Path(__file__).resolve().parents[3]
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def test_everything_that_ships_is_valid_as_a_user_would_check_it() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    done = subprocess.run([str(CAIT), "config", "validate", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    command = [str(CAIT), "config", "validate", "configs"]
    folders = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert folders.stdout.split()[0] == done.stdout.split()[0], "a folder stands for its files"
    recipes = [str(path) for path in files if path.parent.name == "recipe"]
    assert int(done.stdout.split()[0]) + len(recipes) == len(files)
    assert all(recipe in done.stdout for recipe in recipes)


def test_a_recipe_is_a_part_of_the_file_that_builds_on_it(write: Write, tmp_path: Path) -> None:
    recipe = write("recipe.yaml", "optimizer: {lr: 1e-3}\n")
    run = write("below/run.yaml", "base: ../recipe.yaml\nname: n\ndata: {path: d}\n")
    assert validate([tmp_path, run]) == ([run], [recipe])


def test_a_recipe_that_no_file_builds_on_lacks_a_name(write: Write) -> None:
    recipe = write("recipe.yaml", "optimizer: {lr: 1e-3}\n")
    with pytest.raises(ConfigError, match="'name' is required"):
        validate([recipe])


def test_what_is_wrong_in_a_recipe_is_wrong_with_or_without_a_run(write: Write) -> None:
    recipe = write("recipe.yaml", "optimizer: {lr: -1}\n")
    run = write("run.yaml", "base: recipe.yaml\nname: n\ndata: {path: d}\n")
    with pytest.raises(ConfigError) as caught:
        validate([recipe, run])
    assert [problem.lacks is None for problem in caught.value.problems].count(True) == 2


def test_all_errors_of_all_files_come_at_once(write: Write) -> None:
    first, second = write("a.yaml", "name: n\ndata: {path: d}\nsede: 1\n"), write("b.yaml", "name: n\n")
    with pytest.raises(ConfigError) as caught:
        validate([first, second])
    assert ["sede" in str(p) or "data.path" in str(p) for p in caught.value.problems] == [True, True]


def test_a_folder_without_configurations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.yaml"):
        validate([tmp_path])
