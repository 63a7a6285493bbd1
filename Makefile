# Thin and idempotent: each target does what it needs and nothing twice. `make help` lists them.
MODEL := models/SmolLM2-135M-Instruct.Q4_1.gguf
PACELINE := build/release/paceline
VENV := .venv

.DEFAULT_GOAL := help
.PHONY: help deps build model serve test test-faults asan-test soak bench sbom format

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

deps: ## Install the Debian packages that are missing (root or sudo)
	@deploy/scripts/install_deps.sh

build: deps ## Build build/release/paceline
	@test -f build/release/build.ninja || cmake --preset release >build-configure.log 2>&1 || \
	  { cat build-configure.log; exit 1; }; rm -f build-configure.log
	@cmake --build --preset release

model: deps ## Fetch SmolLM2-135M-Instruct (98 MB) into models/
	@python3 deploy/scripts/fetch_model.py $(MODEL)

serve: build model ## Serve the model with two replicas and ask it two questions
	@deploy/scripts/serve_demo.sh $(PACELINE) $(MODEL)

$(VENV)/ready: tests/requirements.txt | deps
	@echo "test: preparing $(VENV) (Python oracles and clients)"
	@python3 -m venv $(VENV)
	@$(VENV)/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@

test: build model $(VENV)/ready ## Run every test: unit, layering, end to end
	@ctest --test-dir build/release --output-on-failure -j2 -LE long

test-faults: build model $(VENV)/ready ## Kill, freeze and cut off processes under load (about 20 minutes)
	@ctest --test-dir build/release --output-on-failure -L faults

asan-test: deps model ## Run the unit tests under address and undefined-behaviour sanitizers
	@cmake --preset asan >/dev/null
	@cmake --build --preset asan
	@ctest --test-dir build/asan --output-on-failure -j2 -L unit

MINUTES := 5
soak: build model $(VENV)/ready ## 64 streams for MINUTES=5: every bit right, no process grows
	@$(VENV)/bin/python tests/e2e/soak.py $(MINUTES)

bench: build model $(VENV)/ready ## Measure beside llama.cpp (builds it once; about 15 minutes)
	@$(VENV)/bin/python tests/bench/vs_llama_cpp.py --paceline $(PACELINE) --model $(MODEL)

sbom: build ## Write the bill of materials (SPDX) of the binary and its libraries
	@deploy/scripts/sbom.py $(PACELINE) >build/paceline.spdx.json
	@echo "sbom: build/paceline.spdx.json"

format: ## clang-format every source file
	@git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i
