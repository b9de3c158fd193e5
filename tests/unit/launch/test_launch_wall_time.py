"""Time limits: SLURM's spellings, except the one that people and SLURM read differently."""

import pytest

from launch.wall_time import minutes_of, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30:00", 5400), ("12:00:00", 43200), ("2-00:00:00", 172800), ("1-01:01:01", 90061)],
)
def test_it_is_read_as_slurm_reads_it(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_no_limit_is_infinite() -> None:
    assert seconds_of("UNLIMITED") == seconds_of("infinite") == float("inf")


def test_minutes_are_rounded_up() -> None:
    assert [minutes_of(text) for text in ("0:00:01", "0:01:00", "0:01:01")] == [1, 1, 2]


@pytest.mark.parametrize("text", ["12:00", "0", "", "-5", "1:60:00", "1:00:60", "1h", "0:00:00", "1-2", "1.5"])
def test_everything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="D-HH:MM:SS"):
        seconds_of(text)
