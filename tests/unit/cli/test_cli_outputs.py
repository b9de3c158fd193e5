"""What a command writes goes where it is asked to, or one line says why not."""

from pathlib import Path

import pytest

from cait_dist.cli.outputs import OutputError, output_folder, writing
from cait_dist.errors import is_for_user


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    with writing(tmp_path / "a" / "b" / "all.json") as path:
        path.write_text("{}")
    assert output_folder(tmp_path / "c" / "d").is_dir()
    assert output_folder(tmp_path / "c" / "d").is_dir(), "it may be there already"


@pytest.mark.parametrize("place", ["file/all.json", "file"])
def test_what_stands_in_the_way_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"{place} cannot be written .*choose another place") as told:
        output_folder(tmp_path / place)
    assert is_for_user(told.value)


def test_a_write_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Is a directory"), writing(tmp_path):
        tmp_path.write_text("{}")
