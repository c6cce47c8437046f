# Everything sets itself up: a machine with Python and pip is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BUNDLE ?= r2unet
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: train test test-all lint format ui bundles map pictures client-pictures screenshots clean

train: $(VENV)/.runtime  ## Train a bundle on the demo CT (BUNDLE=r2unet or upernet)
	$(BIN)/python -W ignore::UserWarning:monai -m monai.bundle run training --config_file "['bundles/$(BUNDLE)/train.json','bundles/$(BUNDLE)/demo.json']"

# Two test processes, of one thread each by tests/conftest.py.
# In the order of the folders, so that the long tests of e2e do not come last, where one process waits for the other. The
# slowest are said, as the suite is to stay under 20 minutes.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 10

test: $(VENV)/.development  ## Every test of less than a minute
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.development  ## The slow proofs too
	$(PYTEST)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin

format: $(VENV)/.development
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(VENV)/.runtime  ## MLflow's UI on the runs of this folder
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui

bundles: $(VENV)/.runtime  ## The standard MONAI bundles as zips in dist/
	$(BIN)/python -m pipelines.deployment.packaging

map:  ## The map of docs/architecture.md, out of the imports
	$(PYTHON) -m docs.make_architecture

pictures: $(VENV)/.runtime  ## The pictures of README and docs, out of a trained model
	$(BIN)/python docs/make_pictures.py

client-pictures: $(VENV)/.development  ## The pictures of docs/use_a_model.md, of what predict and MONAI Label write
	$(BIN)/python -m docs.make_client_pictures

screenshots: $(VENV)/.development  ## The pictures of docs/comparing.md, of MLflow's UI in Chromium
	$(BIN)/python -m docs.make_screenshots

clean:  ## Remove what can be made again; runs, models and data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: setup.cfg setup.py pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.development: setup.cfg setup.py pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[test]"
	@touch $@ $(VENV)/.runtime
