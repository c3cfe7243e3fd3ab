# Five words: run, test, check, bench, docs. Each installs what it needs into .venv, once.

PYTHON ?= python3
VENV := .venv
DATA ?= data/hippocampus
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --no-compile --prefer-binary --constraint constraints.txt
TORCH_FOR_CPU := https://download.pytorch.org/whl/cpu

# Compiling every file of every package costs minutes, and few of them are ever imported: `--no-compile`
# leaves it to the first import. A shell that forbids that would compile again in every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check bench docs

run: $(VENV)/runtime.stamp
	$(BIN)/medfuse run pipelines/liver.yaml

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --max-worker-restart 0

check: $(VENV)/dev.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/hippocampus.py $(DATA)

docs: $(VENV)/dev.stamp
	$(BIN)/python docs/make_reference.py
	@if [ -f runs/liver/summary.json ]; then $(BIN)/python docs/make_images.py; \
		else echo "docs/images stay as they are: \`make run\` makes the run that they show"; fi
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "build/site/index.html"

$(VENV)/runtime.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(INSTALL) --editable .
	@touch $@

# timm without its dependencies, as its torchvision is large and bound to one torch: tests stand in for it.
$(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps timm
	@touch $(VENV)/runtime.stamp $@

# On Linux the usual torch brings gigabytes of CUDA. Without an NVIDIA driver the CPU build does the same;
# where its index cannot be reached, the usual one follows with the other packages.
$(VENV)/torch.stamp: constraints.txt | $(BIN)/pip
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi > /dev/null; then \
		$(INSTALL) --retries 1 --timeout 20 --no-deps --index-url $(TORCH_FOR_CPU) torch \
		|| echo "no CPU build of torch from $(TORCH_FOR_CPU); taking the usual one"; \
	fi
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "medfuse needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
			"Name a newer one: make run PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
