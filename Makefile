# make demo    a small cluster on this machine: three nodes and one sweep
# make test    every check there is; .ci/run runs the same
# make bench   what is claimed about speed and footprint, measured
# make bench-fleet  the same of the fleet: 5,000 nodes on one Redis, and what an idle worker takes
# make venv    only .venv, with all that development needs
# make exporter  .venv-exporter, with the Prometheus exporter for Celery
# make pictures  take the pictures of the documentation anew; wants Chromium
# make pins    resolve requirements/*.txt anew from pyproject.toml and requirements/exporter.in
# make clean   remove what the others made
# PYTHON=...   the Python to make .venv with; else the first of python3.13, python3.12, python3.11, python3

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

venv := .venv
bin := $(venv)/bin
# The exporter pins other versions of what the program itself is made with.
exporter := .venv-exporter
# --no-compile: byte-compiling everything that is installed takes longer than importing what is used.
pip_install := -m pip --disable-pip-version-check install --no-compile --prefer-binary
pip := $(bin)/python $(pip_install)
# All that the demo needs is among the pins of development: where those are installed, they serve it too.
demo_pins := $(if $(wildcard $(venv)/installed-dev),dev,demo)

# Tests that mostly wait, for workers, for Celery and for processes that they start: half of all the time that there is. The real runtime
# and the Docker engine, of which a machine has one each, are the other half's.
fleet_tests := $(wildcard $(addprefix tests/,integration/test_chaos_*.py $(patsubst %,integration/test_%.py,beat companion fleet \
  flower health idle_worker prometheus tls) $(patsubst %,e2e/test_%.py,guards pages race)))

.PHONY: help venv exporter demo test bench bench-fleet pictures pins clean

help:
	@sed -n -e 's/^# \(make \|PYTHON=\)/\1/p' Makefile

# Another PYTHON than the one that .venv was made with would be ignored.
made_with := $(shell cat $(venv)/made 2>/dev/null)
ifneq ($(and $(PYTHON),$(made_with),$(filter-out help clean exporter pins,$(or $(MAKECMDGOALS),help))),)
ifneq ($(shell PYTHON='$(PYTHON)' tools/find-python),$(made_with))
$(error $(venv) was made with $(made_with): make clean first, or leave PYTHON=$(PYTHON) out)
endif
endif

$(venv)/made: | tools/find-python
	@python="$$(tools/find-python)"
	echo "== making $(venv) with $$python"
	rm -rf $(venv)
	"$$python" -m venv $(venv)
	echo "$$python" >$@

$(venv)/installed-%: requirements/%.txt pyproject.toml | $(venv)/made
	@echo "== installing what requirements/$*.txt pins"
	$(pip) --require-hashes -r requirements/$*.txt
	$(pip) --quiet --no-deps --no-build-isolation --editable .
	touch $@

venv: $(venv)/installed-dev

# The package allows no Python 3.13 yet, and runs on it: the test of it does so wherever this Python is one.
$(exporter)/installed: requirements/exporter.txt | tools/find-python
	@python="$$(tools/find-python)"
	echo "== making $(exporter) with $$python"
	rm -rf $(exporter)
	"$$python" -m venv $(exporter)
	$(exporter)/bin/python $(pip_install) --quiet --ignore-requires-python --require-hashes -r requirements/exporter.txt || {
	  echo "$(exporter) was not made: requirements/exporter.txt could not be installed. Is the package index within reach?" >&2
	  exit 1
	}
	touch $@

exporter: $(exporter)/installed

demo: $(venv)/installed-$(demo_pins)
	@$(bin)/cni-cleanup demo --nodes 3

test: $(venv)/installed-dev $(exporter)/installed
	@echo "== ruff check"
	$(bin)/ruff check .
	echo "== ruff format --check"
	$(bin)/ruff format --check .
	echo "== mypy --strict"
	$(bin)/mypy
	echo "== import-linter"
	$(bin)/lint-imports --no-logo
	echo "== pytest: unit, contract, integration, e2e; what waits for a fleet runs beside the rest, and is shown after it"
	mkdir -p build
	# Hundreds of processes start: compiling all that each imports would be half of the time, whatever this shell thinks of bytecode.
	export PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX="$$PWD/build/bytecode"
	$(bin)/pytest -p no:cacheprovider --durations=5 $(fleet_tests) >build/fleet-tests.log 2>&1 &
	beside=$$!
	trap 'kill $$beside 2>/dev/null || true' EXIT
	failed=0
	$(bin)/pytest --durations=5 $(addprefix --ignore=,$(fleet_tests)) tests/unit tests/contract tests/integration tests/e2e || failed=$$?
	wait $$beside || failed=$$?
	cat build/fleet-tests.log
	exit $$failed

bench: $(venv)/installed-$(demo_pins)
	@$(bin)/python bench/run.py

bench-fleet: $(venv)/installed-$(demo_pins)
	@$(bin)/python bench/fleet.py

pictures: $(venv)/installed-dev
	@$(bin)/python tools/pictures.py docs/pictures

# uv is not among the pins: it is only needed here. The development pins come first and bind the others, so that one
# .venv can serve all. The versions that are found do not depend on this machine or its Python (--universal).
pins: tools/find-python
	@python="$$(tools/find-python)"
	scratch="$$(mktemp -d)"
	trap 'rm -rf "$$scratch"' EXIT
	"$$python" -m venv "$$scratch"
	"$$scratch/bin/pip" --disable-pip-version-check install --quiet uv
	compile() {
	  echo "== resolving requirements/$$1.txt"
	  "$$scratch/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make pins' \
	    --output-file requirements/$$1.txt "$${@:2}"
	}
	compile dev --upgrade --all-extras --group build pyproject.toml
	compile demo --upgrade --constraint requirements/dev.txt --extra demo --group build pyproject.toml
	compile run --upgrade --constraint requirements/dev.txt pyproject.toml
	compile image --upgrade --constraint requirements/dev.txt --extra flower --extra otel --group build pyproject.toml
	compile exporter --upgrade requirements/exporter.in
	! grep -n '://' requirements/*.txt

clean:
	@rm -rf $(venv) $(exporter) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench/pass
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.ONESHELL:
