# make study   set everything up and run the quickstart study (about 5 minutes on 2 cores after installation)
# make test    set everything up and run the tests
# make check-slurm   run the SLURM tests on a real single-machine cluster that it starts and stops (Debian, as root)
# make check-faults  kill fifty workers at random moments, where `make test` kills three (a few minutes)
# make bench-scale   what 10,000 trials cost to plan, look at and merge, what the W&B mirror
#                    and every workload costs, and a simulated million
# make lint / types / bench / bench-fit / lock
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: venv study test check-slurm check-faults lint types bench bench-fit bench-scale lock clean

venv: $(INSTALLED)

$(INSTALLED): requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "windtunnel needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; set PYTHON=python3.x" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

study: venv
	$(BIN)/python -m harness.study study=quickstart

test: venv
	$(BIN)/python -m pytest -n logical --maxprocesses 4

check-slurm: venv
	SLURM/local/check.sh $(BIN)/python

check-faults: venv
	WINDTUNNEL_KILLS=50 $(BIN)/python -m pytest tests/engine/test_faults.py tests/records/test_faults.py

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m tests.bench out=results/bench

bench-fit: venv
	$(BIN)/python -m tests.bench only=fit,published out=results/bench-fit

bench-scale: venv
	$(BIN)/python -m tests.bench only=scale,tracker,families out=results/bench-scale

# Newest versions that pyproject.toml allows on the oldest supported Python, as plain name==version lines.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check .
	build/lock/bin/python -m pip freeze --disable-pip-version-check --exclude windtunnel > requirements.lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check ".[dev]"
	build/lock/bin/python -m pip freeze --disable-pip-version-check --exclude windtunnel | grep -vxFf requirements.lock > requirements-dev.lock
	rm -rf build/lock

clean:
	rm -rf $(VENV) build
