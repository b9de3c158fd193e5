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

# A CUDA build of torch brings the Triton that fits it. Elsewhere the tests of the GPU kernels interpret and compile them.
install_triton() {
    .venv/bin/python -c 'import triton' 2>/dev/null && return
    pip install --no-deps triton==3.9.0 || echo "setup: the tests of the GPU kernels are skipped: no Triton for this machine" >&2
}

have() {
    local program
    for program in "$@"; do PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || return 1; done
}

# Packages without starting their daemons. A subshell, so that an interruption, too, takes the policy away.
install_without_daemons() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ] && printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null 2>&1; then
        trap '$sudo rm -f $policy' EXIT
        $sudo chmod +x $policy
    fi
    { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1
)

# The tests of launching run on a real Slurm, which `cait cluster up` starts on this machine; without it they are skipped.
install_slurm() {
    local packages services
    have slurmctld slurmd munged ip && return
    packages="slurm-wlm slurmdbd munge iproute2 mariadb-server"
    if have sinfo; then
        echo "setup: the tests on Slurm are skipped: this machine belongs to a cluster, whose packages are left alone" >&2
        return
    fi
    echo "setup: installing Slurm (for the tests of launching)"
    services="slurmctld slurmd slurmdbd munge $(have mariadbd || echo mariadb)"
    # shellcheck disable=SC2086 # several words are meant
    if ! install_without_daemons $packages; then
        echo "setup: the tests on Slurm are skipped: they need root or the packages $packages" >&2
    elif [ -d /run/systemd/system ]; then
        $sudo systemctl disable --quiet $services || true # nor at the next start of the machine
    fi
}

# The test of MLflow on PostgreSQL starts one of its own; without it, it is skipped.
install_postgres() {
    pip install -e '.[postgres]' || echo "setup: the test on PostgreSQL is skipped: its driver cannot be had" >&2
    have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
    echo "setup: installing PostgreSQL (for a test of the tracking server)"
    if ! install_without_daemons postgresql; then
        echo "setup: the test on PostgreSQL is skipped: it needs root or the package postgresql" >&2
    elif [ -d /run/systemd/system ]; then
        $sudo systemctl disable --quiet postgresql || true
    fi
}

# The tests of the report look at it in a real browser; without one they are skipped.
install_chromium() {
    have chromium && return
    echo "setup: installing Chromium (for the tests of the report)"
    if ! { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; then
        echo "setup: the tests of the report in a browser are skipped: they need root or the package chromium" >&2
    fi
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
    install_triton
    install_ffcv
    install_slurm
    install_postgres
    install_chromium
else
    echo "setup: installing cait-dist"
    pip install -e .
fi
echo "$state" > "$stamp"
