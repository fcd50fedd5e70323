# make demo: train on the embedded sample, evaluate, recommend from a fresh process.  make test: the tests.
# make release REFERENCE=FOLDER_OR_URL NAMESPACE=me: import the paper's three datasets and publish them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# No hub is needed for either; without this a mistyped path would be looked up there for a long time.
export HF_HUB_OFFLINE = 1

DOMAINS ?= beauty sports toys
PROTOCOL ?= clean

.PHONY: demo test lint release
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

release: $(VENV)/.installed
	@test -n "$(REFERENCE)" -a -n "$(NAMESPACE)" || { echo "give REFERENCE=FOLDER_OR_URL NAMESPACE=NAME"; exit 2; }
	set -e; for domain in $(DOMAINS); do \
	  $(BIN)/python -m dataset_builder import --reference $(REFERENCE)/$$domain --domain $$domain \
	    --protocol $(PROTOCOL) --output data/release-$(PROTOCOL)/$$domain --overwrite; \
	  HF_HUB_OFFLINE=0 $(BIN)/python push_to_hub.py --dataset data/release-$(PROTOCOL)/$$domain \
	    --namespace $(NAMESPACE); \
	done

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
