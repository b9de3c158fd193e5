"""At the top of ``benchmarks`` there are programs and nothing else; what they are made of lies in ``parts``."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_lies_at_the_top_is_a_program_that_finds_its_parts_and_says_how_to_call_it(name: str) -> None:
    program = importlib.import_module(name)
    assert callable(program.main)
    assert f"python benchmarks/{name}.py" in (program.__doc__ or "")


def test_the_program_that_takes_the_points_of_the_planner_is_where_it_is_looked_for() -> None:
    planner = importlib.import_module("planner")
    points = importlib.import_module("parts.planner.points")
    assert Path(points.__file__ or "") == planner.PROGRAM


def test_every_room_says_what_is_inside() -> None:
    rooms = [ROOT / "benchmarks/parts", *(path for path in (ROOT / "benchmarks/parts").iterdir() if path.is_dir())]
    for room in rooms:
        if room.name != "__pycache__":
            assert (room / "__init__.py").read_text().startswith('"""'), room
