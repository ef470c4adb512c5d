# Two commands on a fresh machine: `make demo` and `make test`. Both build what they need of the environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed_demo
JOBS ?= 2
PRESET ?= cpu
# Of the CUDA kernels in the development environment: one takes a minute, all that a release holds (make kernels) eleven.
CUDA_ARCHITECTURES ?= $(shell nvidia-smi >/dev/null 2>&1 && echo native || echo 90)
PORTABILITY := tests/portability
# npm writes it last.
NPM_STAMP := $(PORTABILITY)/node_modules/.package-lock.json
# From PyPI where the system has none.
CMAKE := $(or $(shell command -v cmake),$(BIN)/cmake)

.PHONY: demo test test-oldest test-newest lint docs portability sweep bench gpu kernels library env clean

env: $(STAMP)

# Everything is installed in one resolve under the constraints, so that torch's CPU build is taken. The compiled library is
# built on the way: `make library` builds it again after a change of custom_ops/.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
BUILD := CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) SKBUILD_CMAKE_DEFINE
$(STAMP): pyproject.toml constraints.txt | $(BIN)
	$(BUILD)="OPAU_CUDA=AUTO;OPAU_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)" $(INSTALL) -e '.[dev]'
# For the tests of opau_onnx.nn.adopt. It asks for torch 1.7.1, and runs with this one.
	$(INSTALL) --no-deps rational-activations
	touch $@ $(DEMO_STAMP)

# What the demo needs, in the same place: `make env` adds the rest, so the onnxruntime must be the same one. CUDA kernels only
# where there is a GPU.
$(DEMO_STAMP): pyproject.toml constraints.txt | $(BIN)
	$(BUILD)="OPAU_CUDA=$(shell nvidia-smi >/dev/null 2>&1 && echo AUTO || echo OFF)" $(INSTALL) -e '.[gpu,plot]'
	touch $@

$(BIN):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

demo: $(DEMO_STAMP)
	$(BIN)/python scripts/demo.py

# One OpenMP thread for each of the JOBS processes: more of them only wait for each other.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not portability"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site, in out/site; a broken link or a name that the reference lacks is an error.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet -f docs/site/mkdocs.yml

# Exported and collapsed files in onnxruntime-node and, in headless Chromium, onnxruntime-web: see docs/portability.md.
portability: env
	@if command -v npm >/dev/null; then $(MAKE) -s $(NPM_STAMP); else echo "npm is not installed"; fi
	$(BIN)/python -m pytest -m portability $(PORTABILITY)

$(NPM_STAMP): $(PORTABILITY)/package.json $(PORTABILITY)/package-lock.json
	npm ci --prefix $(PORTABILITY)
	@touch $@

# Long sweeps: full matrices instead of covers.
sweep: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m slow

# The suite with the oldest versions that pyproject.toml allows, and with the newest there are, in environments of their own. By
# hand: PyTorch as the registry has it brings CUDA's libraries, several GB. What they deprecate of each other is no failure.
test-oldest test-newest: test-%:
	mkdir -p out
	$(if $(filter oldest,$*),$(PYTHON) scripts/lower_bounds.py,echo "# none") > out/constraints-$*.txt
	test -x $(VENV)-$*/bin/python || $(PYTHON) -m venv $(VENV)-$*
	$(BUILD)="OPAU_CUDA=OFF" $(VENV)-$*/bin/pip install --quiet --disable-pip-version-check --upgrade -c out/constraints-$*.txt -e '.[dev]'
	$(VENV)-$*/bin/pip install --quiet --disable-pip-version-check --no-deps rational-activations
	$(VENV)-$*/bin/pip list --format=freeze > out/versions-$*.txt
	OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -m pytest -n $(JOBS) -m "not slow and not portability" -W ignore::DeprecationWarning

# The CUDA kernels for every architecture that a release holds, and the tests that read their machine code.
kernels:
	$(MAKE) library PRESET=cuda
	OPAU_REQUIRE_ARCHITECTURES=1 $(BIN)/python -m pytest tests/custom_ops/test_sass.py

# The CUDA kernels on this machine's GPU: scripts/gpu.py. Needs nvcc and a PyTorch with CUDA, in PYTHON; no network, no environment.
# PART=kernels, sanitizer, bench, training, networks or serving for one part; DRY=1 on the CPU. Files in $$OUT, else out/gpu.
gpu:
	test -n "$(DRY)" || { cmake -S custom_ops -B build/gpu -DCMAKE_BUILD_TYPE=Release -DOPAU_CUDA=ON -DOPAU_ORT=OFF \
	  -DOPAU_CUDA_ARCHITECTURES=native -DPython3_EXECUTABLE="$$(command -v $(PYTHON))" && cmake --build build/gpu -j; }
	OPAU_REQUIRE_CUDA=1 $(if $(DRY),$(BIN)/python,$(PYTHON)) scripts/gpu.py $(if $(DRY),--dry,--library build/gpu/libopau_onnx_ops.so) \
	  $(if $(PART),--part $(PART))

bench: env
	$(BIN)/python scripts/bench_training.py

# The library of custom_ops/, built in build/$(PRESET) and put where the environment's package looks for it. PRESET=cuda with nvcc.
library: env
	@command -v $(CMAKE) >/dev/null || $(BIN)/pip install --quiet cmake
	@command -v ninja >/dev/null || $(BIN)/pip install --quiet ninja
	cd custom_ops && PATH="$(abspath $(BIN)):$$PATH" $(abspath $(CMAKE)) --preset $(PRESET)
	$(CMAKE) --build build/$(PRESET) -j $(JOBS)
	$(CMAKE) --install build/$(PRESET) --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest out build *.egg-info $(PORTABILITY)/node_modules
