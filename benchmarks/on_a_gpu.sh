#!/usr/bin/env bash
# All that is to be measured and tested on a GPU, in one call:
#
#     benchmarks/on_a_gpu.sh [OUT] [ARGUMENTS OF peers.py, for example --deit ~/deit]
#
# Needs Python with torch, triton and timm; with pytest it runs the tests, with matplotlib it draws. What fails is noted
# in OUT/summary.txt, with its log beside it, and the rest goes on. PYTHON names another interpreter than python3;
# SECONDS_EACH bounds each part, 5400 unless given.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
limit=${SECONDS_EACH:-5400}
out=${1:-gpu-results}
[ $# -gt 0 ] && shift
mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
: > "$out/summary.txt"

note() { echo "$*" | tee -a "$out/summary.txt"; }

part() { # NAME COMMAND…: run it, keep its log, note how it ended
    local name=$1 began=$SECONDS status
    shift
    echo "── $name: $*"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log"
    status=${PIPESTATUS[0]}
    note "$name: $([ "$status" = 0 ] && echo done || echo "status $status, see $name.log") ($((SECONDS - began)) s)"
    return "$status"
}

has() { "$python" -c "import $1" 2> /dev/null; }

part machine nvidia-smi
part versions "$python" -c "
import sys, torch
from importlib import metadata
print('python', sys.version.split()[0], 'cuda', torch.version.cuda, 'gpus', torch.cuda.device_count())
print(*sorted(f'{d.name}=={d.version}' for d in metadata.distributions()), sep='\n')"
if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    note "torch sees no GPU here: nothing to measure"
    exit 1
fi

# Tests that train start processes of the whole project; where its packages are missing, they are left out by name.
if has pytest; then
    for test in tests/gpu/test_*.py; do
        name=$(basename "$test" .py)
        if grep -qE "^(import|from) (training_command|launch|ranks)\b" "$test" && ! has "deepspeed, pydantic, psutil"; then
            note "$name: left out, it needs deepspeed and the project's other packages"
        else
            part "$name" "$python" -m pytest -q -rs -p no:cacheprovider "$test" || true
        fi
    done
else
    note "tests/gpu: left out, it needs pytest"
fi

part row_kernels "$python" benchmarks/row_kernels.py --out "$out/row_kernels.json"
part attention "$python" benchmarks/attention.py --out "$out/attention.json"
part float8_error "$python" benchmarks/float8.py --only error --batch 2 --out "$out/float8_error.json"
part float8_time "$python" benchmarks/float8.py --only time --batch 64 --out "$out/float8_time.json"
part peers "$python" benchmarks/peers.py --out "$out/peers.json" --plot "$out/peers.svg" "$@"
part recomputation "$python" benchmarks/recomputation.py --precision bf16 --image-size 448 --batch 8 \
    --out "$out/recomputation.json"
if has "deepspeed, pydantic, psutil"; then
    part planner "$python" benchmarks/planner.py --out "$out/planner.json"
else
    note "planner: left out, it needs deepspeed and the project's other packages"
fi
echo
cat "$out/summary.txt"
! grep -q "status" "$out/summary.txt"
