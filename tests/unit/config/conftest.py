"""Every test of the configuration works on real files in an empty directory of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cait_dist.config import ConfigError, load_config

MINIMAL = "name: demo\ndata: {path: shards}\n"


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file below the current directory and returns the name to load it by."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return Path(name)

    return write_file


@pytest.fixture
def minimal(write: Callable[[str, str], Path]) -> Path:
    """The shortest configuration that loads."""
    return write("run.yaml", MINIMAL)


@pytest.fixture
def errors() -> Callable[..., list[str]]:
    """The lines of the error that loading a file raises, without their indentation and headline."""

    def load_and_fail(path: Path | str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_config(path, overrides)
        headline, *lines = str(caught.value).split("\n")
        count = len(caught.value.problems)
        assert headline == f"{count} error{'s' if count > 1 else ''} in the configuration:"
        assert len(lines) == count
        return [line.strip() for line in lines]

    return load_and_fail
