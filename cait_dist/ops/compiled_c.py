"""C for what torch's operations would need many passes for, compiled for this processor when it is first needed.

Every process compiles for itself, in a folder that is gone once the library is loaded: a library kept for all would
have to be told apart by processor, compiler and source, and could be found half-written. It takes a quarter of a
second. Threads are those of torch. A process that is killed meanwhile cannot clean up; the next one does
(:mod:`cait_dist.ops.passing_folder`).
"""

import ctypes
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

from .passing_folder import passing_folder

_FLAGS = ("-fPIC", "-O3", "-fno-math-errno", "-fno-trapping-math", f"-I{Path(__file__).parent}")
_COMPILERS = ("cc", "gcc", "clang")
_log = logging.getLogger(__name__)


def compile_c(source: Path, without: str, **defines: int) -> ctypes.CDLL | None:
    """Compiles and loads one file.

    Args:
        source: The file; it may use OpenMP.
        without: What the log says if that cannot be done here, and then why.
        **defines: Names that the compiler is to know, and their values.

    Returns:
        None if it cannot be done.
    """
    try:
        return _compile(source, [f"-D{name}={value}" for name, value in defines.items()])
    except (OSError, subprocess.CalledProcessError) as error:
        _log.warning("%s, %s", without, _why(error))
        return None


def _compile(source: Path, defines: list[str]) -> ctypes.CDLL:
    """With torch's threads, or with one where the library of its threads does not suit the compiler."""
    found = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise OSError(f"there is no C compiler ({', '.join(_COMPILERS)})")
    processor = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    compiler, flags = found.split(), [*_FLAGS, processor, *defines]
    with passing_folder("cait-compiled-") as folder:
        try:
            return _load(compiler, [*flags, "-fopenmp"], source, folder / "threads")
        except (OSError, subprocess.CalledProcessError):
            return _load(compiler, flags, source, folder / "one-thread")


def _load(compiler: list[str], flags: list[str], source: Path, stem: Path) -> ctypes.CDLL:
    objects, library = f"{stem}.o", f"{stem}.so"
    environment = {**os.environ, "TMPDIR": str(stem.parent)}
    # Linked without -fopenmp: a second library of threads beside torch's would fight with it for the cores.
    for step in ([*flags, "-c", "-o", objects, str(source)], ["-shared", "-o", library, objects]):
        subprocess.run([*compiler, *step], check=True, capture_output=True, text=True, env=environment)
    return ctypes.CDLL(library)


def _why(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or [""]
        return f"which {error.cmd[0]} refused: {lines[0].strip()}"
    return f"because {error}"
