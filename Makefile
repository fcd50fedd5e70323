# make demo: train on the embedded sample, evaluate, recommend from a fresh process.  make test: the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# No hub is needed for either; without this a mistyped path would be looked up there for a long time.
export HF_HUB_OFFLINE = 1

.PHONY: demo test lint
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/accelerate launch --quiet train.py --overwrite_output_dir
	$(BIN)/python eval.py --model runs/sample --dataset sample
	$(BIN)/python -I examples/recommend.py runs/sample data/sample

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
