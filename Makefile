# make demo       a CaiT learns handwritten digits on two processes, in minutes
# make test       lint, types and every test
# make test-fast  the tests that start no training processes
# make fuzz       hostile input for the readers of files, guided by coverage; MINUTES=10 for each of the four
# make lint       ruff and mypy alone
# make format     rewrite the code in the house's format

PYTHON ?= python3
# One process per GPU, which is what `cait train` does by itself; two on a machine without.
PROCESSES ?= $(shell nvidia-smi -L > /dev/null 2>&1 || echo 2)

# Many tests wait for servers, schedulers and starting processes: two at a time leave no core idle.
SHARED_OUT = -n 2 --dist loadfile

.PHONY: demo test test-fast fuzz lint format setup setup-dev clean

demo: setup
	.venv/bin/cait prep digits --out data/digits --image-size 24
	.venv/bin/cait train configs/digits.yaml $(if $(PROCESSES),--processes $(PROCESSES))

test: lint
	.venv/bin/python -m pytest $(SHARED_OUT) tests

test-fast: setup-dev
	.venv/bin/python -m pytest $(SHARED_OUT) tests/unit

# atheris is not there for every Python that this runs on, and serves nothing else: so it is no dependency.
fuzz: setup-dev
	.venv/bin/python -m pip --disable-pip-version-check --quiet install atheris==3.0.0
	OMP_NUM_THREADS=1 .venv/bin/python tests/fuzz/coverage_guided.py all $(or $(MINUTES),10) build/fuzz

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup:
	@PYTHON=$(PYTHON) scripts/setup.sh

setup-dev:
	@PYTHON=$(PYTHON) scripts/setup.sh dev

clean:
	rm -rf .venv data/digits runs/digits
