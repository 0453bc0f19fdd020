# `make demo` and `make test` set everything up by themselves: they need Python 3.11 or newer, make, and the package registry.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all lint bench bench-full clean

demo: $(VENV)/.ready-demo
	$(RUN) -m RefSAM3DLib demo --output demo_output

test: $(VENV)/.ready-test
	$(RUN) -m pytest Testing/Engine Testing/Training
	$(RUN) Testing/run_slicer_tests.py

test-all: $(VENV)/.ready-test
	$(RUN) -m pytest Testing/Engine Testing/Training --everything
	$(RUN) Testing/run_slicer_tests.py -- --everything

# Speed and memory beside other people's networks (their packages go into .venv-peers): minutes, or hours that go on where they were stopped.
bench bench-full: bench%: $(VENV)/.ready-test
	$(RUN) Testing/Performance/run.py $(if $*,full,quick) $(BENCH)
	$(RUN) Testing/Performance/page.py
	$(RUN) Docs/fill_figures.py

lint: $(VENV)/.ready-test
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) Docs/fill_figures.py --check

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "RefSAM3D needs Python 3.11 or newer; set PYTHON=python3.11 or so." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the engine into $(VENV) (torch is large: about three minutes on a fast line) ..."
	$(PIP) -e ".[dicom,demo,batch]"
	@touch $@

$(VENV)/.ready-test: pyproject.toml training/pyproject.toml $(VENV)/.ready-demo
	@echo "Installing what the tests need ..."
	$(PIP) -e ".[dicom,demo,batch,ray,test,slicer-tests,lint]"
	$(PIP) --no-deps -r Testing/requirements-slicer-no-deps.txt
	$(PIP) -e training
	@touch $@

clean:
	rm -rf demo_output .pytest_cache .mypy_cache .ruff_cache
