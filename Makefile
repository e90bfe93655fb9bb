# Everything runs in .venv, which is made from the hash-locked requirements when it is missing or out of date.
.DEFAULT_GOAL := help
.PHONY: help demo up quick test chaos check services bench bench-gpu equality truth lora rehearsal examples contract-check image-test kube-test lock clean

VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/
# Two threads on a busy machine made steps thirty times slower; torch's threads do not know of each other.
export OMP_NUM_THREADS ?= 1
# A module is compiled once for all processes, whatever the caller's environment says of bytecode: else each process of
# a test run, and each that a test starts, compiles what it imports, for 10 to 20 s of a core.
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/.cache/bytecode
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	test -x $(RUN)python || python3 -m venv $(VENV)
	$(RUN)python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(RUN)uv pip sync --quiet --python $(RUN)python --require-hashes requirements/dev.txt requirements/uv.txt
	$(RUN)uv pip install --quiet --python $(RUN)python --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY) ## the whole path on this machine: 14 requests, a gallery in out/demo
	$(RUN)python -m worker demo

# A file is one process's, so that its fixtures are made once; tests/conftest.py orders the files, heavy ones first. Four
# processes on two cores, since the heavy tests mostly wait for servers.
# The quick ones wait for nothing, and each process imports torch.
PARALLEL := --dist loadfile --no-loadscope-reorder

quick: $(READY) ## the tests that are fast and need no server: WORKERS=2 in parallel
	$(RUN)python -m pytest -n $(or $(WORKERS),2) $(PARALLEL) -m "not server and not slow" --timeout 60

test: $(READY) ## every test, on real Kafka and S3: WORKERS=4 in parallel
	$(RUN)python -m pytest -n $(or $(WORKERS),4) $(PARALLEL)

JOBS ?= 2000

chaos: $(READY) ## workers killed, brokers bounced, S3 stopped: JOBS=2000 requests; writes out/chaos.json
	$(RUN)python -m tests.chaos --jobs $(JOBS) $(ARGS)

check: $(READY) ## format, lint, types, import arrows
	$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)mypy
	$(RUN)python -m pytest -q tests/test_architecture.py

up: $(READY) ## Kafka, S3, a worker with the demo model, and the gateway with its page on 8007; Ctrl-C stops all
	$(RUN)python -m devtools.local.up

services: $(READY) ## Kafka on 9092 and S3 on 8333 in the foreground, their settings in .local/env; Ctrl-C stops both
	$(RUN)python -m devtools.local.services

bench: $(READY) ## scheduling, and the worker beside its alternatives; writes out/bench/schedule.json and worker.json
	$(RUN)python -m worker bench schedule
	$(RUN)python -m worker bench worker

bench-gpu: $(READY) ## the engine at full size on a GPU, beside diffusers; ARGS=--toy on a CPU; writes out/bench/gpu.json
	$(RUN)python -m worker bench gpu $(ARGS)

equality: $(READY) ## the same request, the same picture: COUNT (200) random jobs; writes out/bench/equality.json
	$(RUN)python -m worker bench equality --count $(or $(COUNT),200)

truth: $(READY) ## do the pictures show what was asked? 200 prompts; writes out/truth.json
	$(RUN)python -m worker bench truth

lora: $(READY) ## teach the demo model a shape and a style; writes out/lora/lora.json
	$(RUN)python -m worker bench lora

rehearsal: $(READY) ## the real worker on a full-size SDXL with random weights; 11 GB of disk, 24 GB of memory, minutes
	$(RUN)python -m worker rehearsal

examples: $(READY) ## the examples in Python, Node, Java and Go against a real Kafka (Go compiles for a minute)
	EXAMPLES_IN_ALL_LANGUAGES=1 $(RUN)python -m pytest -q tests/examples

contract-check: $(READY) ## write docs/contract.md and docs/asyncapi.yaml anew; AsyncAPI's own parser reads the second (Node)
	$(RUN)python -m devtools.contract --check

image-test: ## the shipped Dockerfile built by buildah, and a toy picture in it; root, minutes, 40 GB for a while
	deploy/image-test/run.sh

kube-test: $(READY) ## docs/deploy.md's Kubernetes steps on a real API server with a real KEDA; Go, minutes; the first time half an hour
	$(RUN)python -m tests.kube

lock: $(READY) ## lock the dependencies anew, with hashes and without addresses
	$(RUN)uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet -o requirements/dev.txt
	$(RUN)uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet -c requirements/dev.txt -o requirements/worker.txt
	$(RUN)uv pip compile requirements/build.in --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --quiet -c requirements/dev.txt --custom-compile-command "make lock" -o requirements/build.txt

clean: ## remove what was made here, but the environment
	rm -rf out .local .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
