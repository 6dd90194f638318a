# make demo: everything from a bare machine to the table of searches. make test: the test suite. Needs Python and g++.
PYTHON ?= python3.11
VENV ?= .venv
GPU_PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3)
# The CUDA kernels of an editable install are for this machine's GPUs; without one there is nothing to run them.
export TTS_CUDA_ARCHS ?= $(if $(shell command -v nvidia-smi),native,)
comma := ,
PIP := $(VENV)/bin/python -m pip
SOURCES := $(shell find csrc setup.py pyproject.toml constraints.txt -type f)

# How CUDA kernels run without a GPU: their sources with copies that land late (those for 9.0 and those for all) or early,
# and nvcc's PTX where nvcc is.
CUDA_MODES := late,late80,early$(if $(shell command -v nvcc),$(comma)ptx)
CUDA_TESTS := (late and not late80 and not (float16 and tree_attention)) or (tree_attention and bfloat16) \
	or (ptx and not tree_attention and not sample_children) or (ptx and hard_rows)

.PHONY: demo test gates mutants gpu lint bench sanitize clean

# Torch first, at the pinned version: the extension is then built against it, without build isolation.
$(VENV)/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet --constraint constraints.txt torch numpy setuptools wheel pybind11
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test]'
	$(PIP) install --quiet --no-deps --ignore-requires-python ttsem==0.1.0
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/tts-kernels demo

# Triton's and CUDA's kernels are compiled for GPUs and gated in the first run. Triton's interpreter executes its kernels
# in the next two, the host those of CUDA in the last two.
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n 2 tests/triton
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n 2 -k triton tests/ops tests/test_invariance.py
	$(VENV)/bin/python -m pytest -n 2 --cuda-sources $(CUDA_MODES) -k '$(CUDA_TESTS)' tests/ops
	$(VENV)/bin/python -m pytest -n 2 --cuda-sources late,ptx tests/cuda/test_traffic.py tests/test_invariance.py

# Every CUDA kernel compiled for every target and compared with tests/cuda/gates.csv: half an hour.
gates: $(VENV)/installed
	$(VENV)/bin/python tests/cuda/gates.py

# Every planted bug in the CUDA kernels; make test has a dozen of them.
mutants: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 tests/cuda/test_mutants.py --all-mutants

# On a machine with a GPU and a CUDA build of torch: make gpu. What of it needs no GPU: make gpu DRY=1.
gpu:
	$(GPU_PYTHON) benchmarks/gpu.py $(if $(DRY),--dry)

lint: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt -e '.[dev]' --no-build-isolation
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')

# The compiled code under gcc's address and undefined-behaviour sanitizers, in a build of its own.
sanitize: $(VENV)/installed
	TTS_SANITIZE=address,undefined $(VENV)/bin/python setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=build/sanitize/lib $(VENV)/bin/pytest -n 2 tests/host tests/ops

clean:
	rm -rf $(VENV) build *.egg-info tts_kernels/*.so
