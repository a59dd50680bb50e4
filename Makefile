# Everything a fresh clone needs: each target sets up what it uses by itself, in .venv.
#
#   make demo        quantize tiny-libero and watch it act next to its float parent (≤ 12 minutes on two cores)
#   make test        the quick tests           make test-slow   the ones that take minutes
#   make bench       the figures in the docs   make docs        fill in the figures, check the rest, build site/
#   make lint        ruff, mypy, schemas       make setup       only the environment
#   make clean       remove the environments
#   make test-browser the pages in headless Chromium
#   make test-triton the GPU kernels with the oldest Triton
#   make test-py312  the quick tests on Python 3.12 with LeRobot's distribution of LIBERO, in .venv312
#   make gate        compile every GPU kernel for every card, without one, and read the machine code
#   make bench-gpu   measure the GPU of this machine (BENCH_GPU_ARGS=--all for everything; docs/gpu.md)
#   make cubins      compile the GPU kernels that ship for robots without Triton
#   make fuzz        20,000 hostile inputs (CASES=…), and what they cost
#
# PYTHON=…        an interpreter of version 3.11 that is not called python3.11
# PYTHON312=…     one of version 3.12 that is not called python3.12
# WORKERS=2       processes in which tests run; each computes on one thread
# TORCH_INDEX=…   where torch's wheels come from; PyTorch's CPU index saves gigabytes where the default is a CUDA build

PYTHON ?= python3.11
TORCH_INDEX ?=
CASES ?= 20000
WORKERS ?= 2
BENCH_GPU_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
CONSTRAINTS := constraints/py311.txt
PYTHON312 ?= python3.12
VENV312 := .venv312
CONSTRAINTS312 := constraints/py312.txt
# Triton, the newest and the oldest that the GPU kernels are right with: each apart from the environment, since it takes
# 1 GB of disk and only tests and the gate need it. It brings its own assemblers and disassemblers.
TRITON := .triton
NEWEST := $(TRITON)/3.9.0
OLDEST := $(TRITON)/3.6.0
KERNELS := $(wildcard src/vlapack/csrc/*.cpp src/vlapack/csrc/*.hpp)
APT := libegl1 libgles2 libgl1 libglvnd0 libgl1-mesa-dri libglib2.0-0
# Not measured by `make bench`: tools, and what takes hours or 12 GB of disk. The plan of 100,000 episodes takes 30
# minutes, and thirty kills with their repeats 36: run them after a change to how evaluations are stored. The comparison
# with other engines installs five of them, and takes an hour.
APART := benchmarks/synthetic_pi05.py benchmarks/chunk.py benchmarks/openpi_worker.py benchmarks/compiled.py \
	benchmarks/quantize_full.py benchmarks/fidelity.py benchmarks/closed_loop.py benchmarks/distill.py \
	benchmarks/closed_loop_large.py benchmarks/loading.py benchmarks/large_plan.py benchmarks/kills.py benchmarks/rivals.py \
	benchmarks/realtime.py benchmarks/threads.py

export MUJOCO_GL ?= egl
# Every extra is installed here: a test that lacks one fails instead of being skipped.
export VLAPACK_REQUIRE_EXTRAS := 1

.PHONY: setup demo test test-slow test-browser test-triton test-py312 fuzz fuzz-slice gate gate-slice cubins bench bench-gpu docs lint clean

setup: $(VENV)/.installed $(VENV)/.renders

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "$(PYTHON) is not Python 3.11, for which $(CONSTRAINTS) is made; name one: make setup PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[libero,lerobot,jax,docs,report,ray,dev]'
	@touch $@

# The simulator renders without a screen: try it once, instead of failing in the middle of an evaluation.
$(VENV)/.renders: $(VENV)/.installed
	@$(BIN)/python -c 'import cv2, mujoco; mujoco.GLContext(64, 64).make_current()' || { \
	  echo "MUJOCO_GL=$(MUJOCO_GL) cannot render here. On Debian or Ubuntu: apt-get install -y $(APT)" >&2; \
	  exit 1; }
	@touch $@

demo: setup
	$(BIN)/python scripts/demo.py

test: setup $(NEWEST)/.installed
	PYTHONPATH=$(NEWEST) $(PYTEST) -m 'not slow and not fuzz and not browser'

# pytest says 5 if nothing was selected.
test-slow: setup $(NEWEST)/.installed
	PYTHONPATH=$(NEWEST) $(PYTEST) -m slow || [ $$? -eq 5 ]

# Playwright drives the chromium of the system; a test that finds none says which package brings it.
test-browser: $(VENV)/.installed
	$(BIN)/pytest -m browser tests/report tests/watch

# The GPU kernels, interpreted, with the oldest Triton; `make test` has the newest.
test-triton: $(VENV)/.installed $(OLDEST)/.installed
	PYTHONPATH=$(OLDEST) $(BIN)/pytest tests/ops/triton

$(TRITON)/%/.installed: $(VENV)/.installed
	rm -rf $(@D)
	$(BIN)/pip install --quiet --no-deps --target $(@D) triton==$*
	@touch $@

test-py312: $(VENV312)/.installed
	LIBERO_CONFIG_PATH=$(abspath $(VENV312))/libero $(VENV312)/bin/pytest -m 'not slow and not browser' --ignore tests/ops/triton

# hf-libero asks where data sets lie at its first import: here, into the environment's own configuration.
$(VENV312)/.installed: pyproject.toml $(CONSTRAINTS312) $(KERNELS)
	@$(PYTHON312) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || { \
	  echo "$(PYTHON312) is not Python 3.12; name one: make test-py312 PYTHON312=/path/to/python3.12" >&2; \
	  exit 1; }
	$(PYTHON312) -m venv $(VENV312)
	$(VENV312)/bin/pip install --quiet --constraint $(CONSTRAINTS312) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch torchvision
	$(VENV312)/bin/pip install --quiet --constraint $(CONSTRAINTS312) --editable '.[libero,lerobot,jax,report,dev]'
	@mkdir -p $(VENV312)/libero
	@echo n | LIBERO_CONFIG_PATH=$(abspath $(VENV312))/libero $(VENV312)/bin/python -c 'import libero.libero' >/dev/null
	@touch $@

# What is found is put into tests/fuzz/corpus, with the edits that it takes.
fuzz: setup
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --cases $(CASES)

fuzz-slice: setup
	$(BIN)/pytest -m fuzz tests/fuzz

gate: $(VENV)/.installed $(NEWEST)/.installed
	PYTHONPATH=$(NEWEST) $(BIN)/python scripts/compile_kernels.py --all

# Three cards, and what changed.
gate-slice: $(VENV)/.installed $(NEWEST)/.installed
	PYTHONPATH=$(NEWEST) $(BIN)/python scripts/compile_kernels.py

# What a wheel then has for Orin and Thor (docs/gpu.md, "Robots without Triton").
cubins: $(VENV)/.installed $(NEWEST)/.installed
	PYTHONPATH=$(NEWEST) $(BIN)/python scripts/build_cubins.py

bench: setup
	@for question in $(filter-out $(APART),$(wildcard benchmarks/*.py)); do echo "== $$question"; $(BIN)/python $$question || exit 1; done

# VLAPACK_BENCH_DRY=1 runs all of it without a card, and interprets the kernels by our own Triton.
bench-gpu: $(VENV)/.installed $(if $(VLAPACK_BENCH_DRY),$(NEWEST)/.installed)
	PYTHONPATH=benchmarks$(if $(VLAPACK_BENCH_DRY),:$(NEWEST)) $(BIN)/python -m gpu $(BENCH_GPU_ARGS)

# Figures come from benchmarks/results; the tests compare lists with the code. VLAPACK_SOURCE=URL makes the site's links
# to other files of the repository lead there; without it they lead to this checkout.
docs: $(VENV)/.installed
	$(BIN)/python scripts/fill_docs.py
	$(BIN)/python scripts/make_api_docs.py --check
	$(BIN)/pytest -q tests/benchmarks/test_tables.py tests/benchmarks/test_figures.py tests/benchmarks/test_sizes.py \
	  tests/scripts/test_docs_site.py tests/test_guide.py tests/test_repository.py tests/test_architecture.py \
	  tests/commands/test_inspect.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lint.sh

clean:
	rm -rf $(VENV) $(VENV312) $(TRITON) .gate site
