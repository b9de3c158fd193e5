"""Files that say what is right: read as they are meant, and refused in one line that names file and remedy."""

import json
from pathlib import Path

import pytest

from cait_dist.data.errors import DataError
from cait_dist.data.true_labels import read_real_labels, read_subset


@pytest.fixture
def split(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    return tmp_path


def test_real_labels_are_those_beside_the_shards(split: Path) -> None:
    (split / "val" / "real.json").write_text("[[1, 2], [], [0]]")
    assert read_real_labels(split, "val", 3, 3) == ((1, 2), (), (0,))
    assert read_real_labels(f"file://{split}", "val", 3, 3) == ((1, 2), (), (0,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "real.json: cannot be read"),
        ("[[1], [3], []]", "entry 1 is"),
        ("[[1], 2, []]", "is something else"),
        ("[[1]", "cannot be read"),
        (json.dumps([[1], []]), "has 2 entries for 3 samples"),
        ("[[], [], []]", "no label for any sample"),
    ],
)
def test_real_labels_that_do_not_fit_are_refused(split: Path, content: str | None, message: str) -> None:
    if content is not None:
        (split / "val" / "real.json").write_text(content)
    with pytest.raises(DataError) as caught:
        read_real_labels(split, "val", 3, 3)
    text = str(caught.value)
    assert message in text
    assert str(split / "val" / "real.json") in text
    assert "`cait prep … --real FILE`" in text
    assert "\n" not in text


def test_a_subset_is_a_number_per_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("6\n11\r\n13\n\n")
    assert read_subset(tmp_path / "classes.txt", 3) == (6, 11, 13)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("6\nn01440764\n", "'n01440764' is no number"),
        ("6\n-1\n", "'-1' is no number"),
        ("6\n6\n", "names output 6 twice"),
        ("1\n2\n3\n", "has 3 numbers for the 2 classes"),
        ("", "has 0 numbers"),
    ],
)
def test_subsets_that_are_none_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_subset(path, 2)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "a line per class" in str(caught.value)
    assert "\n" not in str(caught.value)
