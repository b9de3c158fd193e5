"""`cait train` is killed at random moments, and ends as if nothing had been. For longer: `tests/random_kills.py`."""

from pathlib import Path

import pytest
from random_kills import kill_and_compare

KILLS = 3

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(digits: Path, tmp_path: Path) -> None:
    facts = kill_and_compare(digits, tmp_path / "work", KILLS, seed=1)
    print(facts)
    assert facts["kills"] == KILLS
    assert isinstance(facts["attempts"], int)
    assert facts["attempts"] >= 2
