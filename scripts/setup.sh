#!/usr/bin/env bash
# Makes .venv with everything the project needs; `scripts/setup.sh dev` adds what the tests need, and FFCV where it can.
# A second call does nothing unless pyproject.toml or this file changed.
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:-run}
stamp=.venv/.installed-$kind
state=$(cat pyproject.toml scripts/setup.sh tests/reference-requirements.txt | sha256sum)

[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && exit 0

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "setup: needs Python 3.10 or newer as 'python3'; name another with PYTHON=/path/to/python" >&2
    exit 2
fi

sudo=""
[ "$(id -u)" = 0 ] || sudo="sudo -n"

# Debian and Ubuntu ship Python without venv.
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "setup: installing python3-venv and python3-pip (to make .venv)"
    if ! { $sudo apt-get update -qq && $sudo apt-get install -y -qq python3-venv python3-pip; }; then
        echo "setup: Python's venv is missing and cannot be installed without root: ask for the package python3-venv" >&2
        exit 2
    fi
fi

# FFCV is compiled against OpenCV and libjpeg-turbo. It is optional: what cannot be had is said, and its tests are skipped.
install_ffcv() {
    .venv/bin/python -c 'import ffcv' 2>/dev/null && return
    if ! pkg-config --exists opencv4 libturbojpeg 2>/dev/null; then
        echo "setup: installing the headers of OpenCV and libjpeg-turbo (for FFCV)"
        if ! { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends \
            g++ pkg-config libopencv-dev libturbojpeg0-dev; } >/dev/null 2>&1; then
            echo "setup: FFCV is left out: it needs root or the packages g++ pkg-config libopencv-dev libturbojpeg0-dev" >&2
            return
        fi
    fi
    echo "setup: compiling FFCV"
    pip install -e '.[ffcv]' || echo "setup: FFCV is left out: it could not be compiled" >&2
}

pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

if [ ! -x .venv/bin/python ]; then
    if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        echo "setup: using the CUDA build of torch that is already here"
        "$python" -m venv --system-site-packages .venv
    else
        "$python" -m venv .venv
    fi
fi
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "setup: installing torch"
    pip install torch==2.13.0
fi
if [ "$kind" = dev ]; then
    echo "setup: installing cait-dist and its test tools"
    pip install -e '.[dev]'
    # Their declared dependencies would replace torch; the tests need only their Python code.
    pip install --no-deps -r tests/reference-requirements.txt
    install_ffcv
else
    echo "setup: installing cait-dist"
    pip install -e .
fi
echo "$state" > "$stamp"
