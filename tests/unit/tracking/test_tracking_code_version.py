"""What is kept of code that differs from its commit."""

import subprocess
from pathlib import Path

import pytest

from cait_dist.tracking import code_version
from cait_dist.tracking.code_version import CODE_FILE, DIFF_FILE, code_diff


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text("depth = 24\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_it_shows_what_was_changed_since_the_commit(checkout: Path) -> None:
    assert code_diff(checkout) == ""
    (checkout / "model.py").write_text("depth = 36\n")
    found = code_diff(checkout) or ""
    assert "-depth = 24\n+depth = 36\n" in found
    assert found.startswith("diff --git a/model.py b/model.py")


def test_of_a_large_difference_it_keeps_the_beginning_in_whole_lines(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_version, "MAX_DIFF_BYTES", 5000)
    (checkout / "model.py").write_text("".join(f"width = {number:08}\n" for number in range(100_000)))
    lines = (code_diff(checkout) or "").splitlines()
    assert len("\n".join(lines)) < 5100
    assert lines[-1] == "# the rest is left out: more than 5,000 bytes differ"
    assert lines[-2].startswith("+width = ")
    assert len(lines[-2]) == len("+width = 00000000")


def test_it_is_unknown_without_git_and_copied_for_a_job(tmp_path: Path) -> None:
    assert code_diff(tmp_path) is None
    (tmp_path / CODE_FILE).write_text("{}")
    assert code_diff(tmp_path) is None
    (tmp_path / DIFF_FILE).write_text("+depth = 36\n")
    assert code_diff(tmp_path) == "+depth = 36\n"
