"""Coverage-guided fuzzing with atheris, libFuzzer for Python: `make fuzz MINUTES=10`.

`python tests/fuzz/coverage_guided.py all MINUTES FOLDER` fuzzes one target after the other, each in a process of its
own, and prints a table: executions, branches reached by the seeds and at the end, and the file that reproduces a crash,
if there is one. `coverage_guided.py TARGET --replay FILE` runs one case again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LONGEST = 1 << 18
"""Bytes of a case: several times the largest seed."""
INSTRUMENTED = ["cait_dist", "data_prep", "tarfile", "yaml", "targets"]
_REPORT = re.compile(r"cov: (\d+)")


def fuzz_all(minutes: float, folder: Path) -> int:
    """Fuzz every target for so long; returns the status to exit with."""
    from targets import TARGETS  # noqa: PLC0415 - the processes below instrument it before it is loaded

    print(f"{'target':<12}{'minutes':>8}{'executions':>12}{'coverage':>16}  found")
    failed = False
    for name in TARGETS:
        out = folder / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        began = time.monotonic()
        command = [sys.executable, __file__, name, str(round(60 * minutes)), str(out)]
        with (out / "log.txt").open("wb") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        failed |= status != 0
        print(f"{name:<12}{(time.monotonic() - began) / 60:>8.1f}{_summary(out, status)}", flush=True)
    return int(failed)


def _summary(out: Path, status: int) -> str:
    text = (out / "log.txt").read_text(errors="replace")
    covered = _REPORT.findall(text) or ["0"]
    counted = re.findall(r"^#(\d+)", text, re.MULTILINE) or ["0"]
    crashes = sorted(out.glob("crash-*")) + sorted(out.glob("*timeout-*")) + sorted(out.glob("oom-*"))
    found = str(crashes[0]) if crashes else f"status {status}, see {out / 'log.txt'}" if status else "nothing"
    return f"{counted[-1]:>12}{f'{covered[0]} → {covered[-1]}':>16}  {found}"


def fuzz(name: str, seconds: int, out: Path) -> None:
    """Fuzz one target; libFuzzer ends the process.

    Args:
        name: of the target
        seconds: to spend
        out: folder for the corpus, and for what crashes
    """
    import atheris  # noqa: PLC0415 - tests do without it
    import torch._weights_only_unpickler  # noqa: PLC0415 - torch as a whole would take minutes to instrument

    atheris.instrument_func(torch._weights_only_unpickler.Unpickler.load)
    with atheris.instrument_imports(include=INSTRUMENTED):
        from corpus import seeds  # noqa: PLC0415
        from targets import TARGETS  # noqa: PLC0415
    from cases import decode, encode  # noqa: PLC0415
    from oracle import MEGABYTES, SECONDS, Watch, workplace  # noqa: PLC0415

    target, place, corpus = TARGETS[name], workplace(name), out / "corpus"
    scratch = place / "scratch"
    for folder in (place / "seeds", corpus, scratch):
        folder.mkdir()
    watch = Watch(scratch, out / "current")
    for number, case in enumerate(seeds(name, place / "seeds")):
        (corpus / f"seed-{number}").write_bytes(case)
        watch.judge(case, target.of(case, scratch))
    watch.limit_memory()

    def try_case(case: bytes) -> None:
        shutil.rmtree(scratch)
        scratch.mkdir()
        watch.judge(case, target.of(case, scratch))

    def change_one_file(case: bytes, longest: int, seed: int) -> bytes:
        # libFuzzer's own changes would hit the lengths between the files more often than not.
        flags, files = decode(case, target.files)
        present = [name for name in target.files if files[name]] or list(target.files)
        chosen = present[seed % len(present)]
        files[chosen] = bytes(atheris.Mutate(files[chosen], max(longest // 2, 64)))
        return encode(flags ^ (seed % 8 == 0), files, target.files)[:longest]

    options = [f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-max_len={LONGEST}", "-print_final_stats=1",
               f"-rss_limit_mb={4 * MEGABYTES}", f"-artifact_prefix={out}/", str(corpus)]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], try_case, custom_mutator=change_one_file)
    atheris.Fuzz()


def replay(name: str, case: Path) -> None:
    """Run one case as the fuzzers do."""
    from oracle import Watch, workplace  # noqa: PLC0415
    from targets import TARGETS  # noqa: PLC0415

    place = workplace(name)
    (place / "scratch").mkdir()
    watch = Watch(place / "scratch", place / "current")
    watch.limit_memory()
    content = case.read_bytes()
    print(watch.judge(content, TARGETS[name].of(content, place / "scratch")))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["all", minutes, folder]:
            sys.exit(fuzz_all(float(minutes), Path(folder)))
        case [name, "--replay", file]:
            replay(name, Path(file))
        case [name, seconds, folder]:
            fuzz(name, int(seconds), Path(folder))
        case _:
            sys.exit(__doc__)
