"""`cait train` is killed at random moments, and ends as if nothing had been. For longer: `tests/random_kills.py`."""

from pathlib import Path

import pytest
from random_kills import kill_and_compare

SEED, VICTIMS = 350, {"loader": 1, "all": 1, "rank": 1}
"""Which draws each of them once, twelve steps after a start or ten."""

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(digits: Path, tmp_path: Path) -> None:
    facts = kill_and_compare(digits, tmp_path / "work", len(VICTIMS), SEED)
    print(facts)
    assert facts["of"] == VICTIMS
    assert isinstance(facts["attempts"], int)
    assert facts["attempts"] > len(VICTIMS)
