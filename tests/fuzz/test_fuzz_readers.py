"""Half a minute of hostile input for each reader: success or a refusal meant for users, and nothing else.

`make fuzz` does it for longer, guided by coverage.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from targets import TARGETS

SECONDS = 30

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.timeout(240)
def test_no_input_does_more_than_be_refused(name: str, tmp_path: Path) -> None:
    program, reproducer = Path(__file__).with_name("structured.py"), tmp_path / "reproducer"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(program), name, str(SECONDS), str(reproducer)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr[-6000:]}\nreproduce: coverage_guided.py {name} --replay {reproducer}"
    found = json.loads(done.stdout)
    print(f"{name}: {found['tried']:,} cases in {found['seconds']} s, {found['accepted']:,} of them accepted in part")
    assert all(found["known"]), "every reader reads at least one of the files that nobody has changed"
    assert found["tried"] > 100
    assert found["seconds"] >= SECONDS


WATCHED = """
import os, sys
from pathlib import Path
sys.path[:0] = [{folder!r}, {tests!r}]
from oracle import BrokenPromise, Watch
from cait_dist.config.errors import ConfigError, Problem
from data_prep.errors import DataPrepError
place = Path({place!r})
(place / "scratch").mkdir()
watch = Watch(place / "scratch", place / "current")
watch.limit_memory(256)

def refuse(error):
    raise error

def broken(read):
    try:
        watch.judge(b"", [read])
    except (BrokenPromise, MemoryError, KeyError) as error:
        return str(error) or type(error).__name__
    return ""

for read in (lambda: 1, lambda: refuse(DataPrepError("a.tar: no tar")), lambda: refuse(ConfigError([Problem("a")]))):
    assert broken(read) == "", read
    assert broken(lambda: (place / "scratch" / "a").write_text("inside")) == ""
for word, read in {{
    "os.system": lambda: os.system("true"),
    "outside": lambda: (place / "outside").write_text("x"),
    "not for users": lambda: refuse(ValueError("a")),
    "'a'": lambda: refuse(KeyError("a")),
    "terminal": lambda: refuse(DataPrepError("a\\x1b[2J")),
    "terminal ": lambda: refuse(DataPrepError("a\\nb")),
    "characters": lambda: refuse(DataPrepError("a" * 9000)),
    "MemoryError": lambda: bytearray(1 << 29),
}}.items():
    assert word.strip() in broken(read), (word, broken(read))
watch.judge(b"hangs", [lambda: exec("while True: pass")])
"""


def test_the_watch_notices_everything_that_it_watches_for(tmp_path: Path) -> None:
    here = Path(__file__).parent
    program = WATCHED.format(folder=str(here), tests=str(here.parent), place=str(tmp_path))
    program = program.replace("from oracle import", "import oracle; oracle.SECONDS = 1\nfrom oracle import")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "Timeout" in done.stderr, done.stderr
    assert done.returncode == 1
    assert (tmp_path / "current").read_bytes() == b"hangs", "what hangs can be tried again"
