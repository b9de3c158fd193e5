"""``python -m launch.check RUN_DIR [SECONDS]`` on every rank: check the cluster, train nothing.

The ranks wait for each other so long, by default two minutes.
Status 0: fit, 1: refused, 2: the ranks did not come together.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from cait_dist.errors import is_for_user
from launch.check.cluster import JOIN_SECONDS, check_program


def main(run_dir: str, join_seconds: float = JOIN_SECONDS) -> NoReturn:
    """Run one rank; never returns, because a broken process group can hang the interpreter's own shutdown."""
    status = 1
    try:
        status = check_program(Path(run_dir), join_seconds=join_seconds)
    except Exception as error:
        if is_for_user(error):
            print(f"cait: {error}", file=sys.stderr)
            status = 2
        else:
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
