# `make` alone lists the targets. Everything installs into $(VENV); nothing else is touched.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet
pins := --constraint requirements/tested.txt

.DEFAULT_GOAL := help
# `make test` runs its parts in order, so that the last line printed is pytest's.
.NOTPARALLEL:
.PHONY: help setup demo test lint types unit format golden docs wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## create the virtual environment and install peftlang

demo: $(VENV)/.ready-demo  ## the main job: compile, train, save, load and generate on a tiny model
	$(bin)/peftlang explain specs/mam.peft --model tiny-llama --set l=4 --set r=16
	$(bin)/python examples/demo.py

test: $(VENV)/.ready-test lint types unit  ## everything: lint, types, and the whole test-suite

lint: $(VENV)/.ready-test  ## ruff: rules and layout
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(VENV)/.ready-test  ## mypy, strict
	$(bin)/mypy

unit: $(VENV)/.ready-test  ## pytest alone, JOBS=2 processes
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n $(JOBS) --dist worksteal -q

format: $(VENV)/.ready-test  ## rewrite Python and .peft files in their one layout
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
	$(bin)/peftlang fmt specs

golden: $(VENV)/.ready-test  ## rewrite the golden files; read the difference before committing it
	$(bin)/python -m pytest -q --update-golden tests

docs: $(VENV)/.ready  ## rewrite the generated pages of docs/ and specs/
	$(bin)/python -m docs.generate

wheel: $(VENV)/.ready-test  ## build sdist and wheel into dist/
	$(bin)/python -m build

clean:  ## remove what was built, the virtual environment included
	rm -rf $(VENV) build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "peftlang needs Python 3.11 or newer; try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch by itself first: its exact version is asked for by name, so that no other package's
# wider range can choose another build of it.
$(VENV)/.ready: pyproject.toml requirements/tested.txt | $(bin)/python
	$(pip) "$$(grep '^torch==' requirements/tested.txt)"
	$(pip) $(pins) --editable .
	@touch $@

$(VENV)/.ready-demo: $(VENV)/.ready
	$(pip) $(pins) --editable '.[train]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	$(pip) $(pins) --editable '.[test]'
	@touch $@
