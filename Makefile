# make demo: everything from a bare machine to the table of searches. make test: the test suite. make bench:
# the benchmarks. Needs Python and g++.
PYTHON ?= python3.11
VENV ?= .venv
GPU_PYTHON ?= $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3)
# The CUDA kernels of an editable install are for this machine's GPUs; without one there is nothing to run them.
export TTS_CUDA_ARCHS ?= $(if $(shell command -v nvidia-smi),native,)
PIP := $(VENV)/bin/python -m pip
SOURCES := $(shell find csrc setup.py pyproject.toml constraints.txt -type f)

# The CUDA kernels without a GPU: their sources, with copies that land late (the kernels for 9.0, and those for all) or
# early; and nvcc's PTX, of a few attention kernels, where nvcc is. A part of the op tests each.
SOURCE_TESTS := (late and not late80 and not (float16 and tree_attention) and not (matches_reference and (1.7 or 0.3))) \
	or (tree_attention and bfloat16 and (test_heads or 8_bits))
PTX_TESTS := (tree_attention and bfloat16 and not head_dims) or hard_rows or not (tree_attention or sample_children)

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
# in the next two, the host those of CUDA in the last three.
test: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n 2 tests/triton
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n 2 -k triton tests/ops tests/test_invariance.py
	$(VENV)/bin/python -m pytest -n 2 --cuda-sources late,late80,early -k '$(SOURCE_TESTS)' tests/ops
	$(VENV)/bin/python -m pytest -n 2 --cuda-sources late tests/cuda/test_cuda_traffic.py
	$(if $(shell command -v nvcc),$(VENV)/bin/python -m pytest -n 2 --cuda-sources ptx --cuda-overlay tests/cuda/small \
		-k '$(PTX_TESTS)' tests/ops)

# Every CUDA kernel compiled for every target and compared with tests/cuda/gates.csv: half an hour.
gates: $(VENV)/installed
	$(VENV)/bin/python tests/cuda/gates.py

# Every planted bug in the CUDA and Triton kernels; make test has some of them.
mutants: $(VENV)/installed
	$(VENV)/bin/python -m pytest -n 2 tests/cuda/test_mutants.py --all-mutants
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -n 2 tests/triton -k mutants --all-mutants

# On a machine with a GPU and a CUDA build of torch: make gpu. What of it needs no GPU: make gpu DRY=1.
gpu:
	$(GPU_PYTHON) benchmarks/gpu.py $(if $(DRY),--dry)

lint: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt -e '.[dev]' --no-build-isolation
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.cpp' 'csrc/*.h')

# Every benchmark of the CPU kernels and of decoding with them, then figures and the README's tables: 25 minutes alone on
# two cores. What decodes beside us: BENCH_ARGS="--peer llama_cpp=PYTHON ..."; without, only what is installed here.
BENCH_ARGS ?=
OPS := linear layers tree_attention merge_states write_kv copy_pages sample_children score_steps select_children
BENCH := $(VENV)/bin/python benchmarks

bench: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation -e '.[bench]'
	-$(VENV)/bin/python -m pytest --csv --threads 1 $(OPS:%=benchmarks/bench_%.py)
	-$(VENV)/bin/python -m pytest --csv --threads 2 benchmarks/bench_linear.py benchmarks/bench_tree_attention.py
	$(BENCH)/bench_memory.py --csv
	$(BENCH)/bench_scaling.py --csv
	$(BENCH)/bench_token_beam.py --csv --new 64 --pairs 1
	$(BENCH)/bench_decode.py --csv --once-over 4 $(BENCH_ARGS)
	for branches in 8 128; do $(BENCH)/bench_decode.py --csv --system tts_kernels --branches $$branches || exit 1; done
	for prefix in 256 4096; do $(BENCH)/bench_decode.py --csv --system tts_kernels --prefix $$prefix || exit 1; done
	$(BENCH)/plot.py

# The compiled code under gcc's address and undefined-behaviour sanitizers, in a build of its own.
sanitize: $(VENV)/installed
	TTS_SANITIZE=address,undefined $(VENV)/bin/python setup.py -q build --build-base build/sanitize --build-lib build/sanitize/lib
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=build/sanitize/lib $(VENV)/bin/pytest -n 2 tests/host tests/ops

clean:
	rm -rf $(VENV) build *.egg-info tts_kernels/*.so
