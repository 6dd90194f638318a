"""What nvcc makes of the kernels, against gates.csv. `make gates` compiles every kernel for every target."""

import shutil
from dataclasses import replace

import gates
import pytest
from gates import SOURCES, TARGETS, Gate

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

# Every target and every file of kernels, of attention the type that compiles quickest: few enough for a CI machine.
COMPILED = [
    ("copy_pages", "100"),
    ("merge_states", "120"),
    ("sample_children", "89"),
    ("score_steps", "86"),
    ("select_children", "90"),
    ("write_kv", "90a"),
    ("tree_attention_float32", "80"),
]
GATE = Gate("k<float>", "86", 128, 100, 0, 0, 0, 4, 2, 8, 0, 1)


def test_all_sources_and_targets_are_seen():
    with_kernels = {source.stem for source in SOURCES if "__global__" in source.read_text()}
    assert with_kernels <= {stem for stem, _ in COMPILED} <= {source.stem for source in SOURCES}
    assert {target for _, target in COMPILED} == set(TARGETS)


@needs_nvcc
@pytest.mark.parametrize(("stem", "target"), COMPILED)
def test_compiled_kernels(stem, target):
    (source,) = [source for source in SOURCES if source.stem == stem]
    compiled = gates.compile_gates(source, target)
    assert compiled
    assert gates.check(compiled) == []


def test_table_has_what_makes_kernels_quick():
    for gate in gates.read_table().values():
        assert (gate.spills, gate.local, gate.static_shared) == (0, 0, 0), gate
        if gate.kernel.startswith("tree_attention"):
            assert gate.async_copies, gate
            on_tensor_cores = "<float," not in gate.kernel
            assert bool(gate.multiplies) == on_tensor_cores, gate
            # Products of warpgroups, on 90a, read shared memory themselves.
            assert bool(gate.matrix_loads) == on_tensor_cores or gate.target == "90a", gate
        if gate.kernel in ("copy_pages_kernel<Vec16>", "write_kv_kernel<Vec16>"):
            assert gate.wide_loads, gate
            assert gate.wide_stores, gate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 101}, "101 registers, gates.csv allows 100"),
        ({"spills": 8, "local": 2}, "8 bytes spilled, 2 local accesses"),
        ({"static_shared": 64}, "static shared memory differ"),
        ({"async_copies": 0}, "async copies are gone"),
        ({"matrix_loads": 0}, "matrix loads are gone"),
        ({"multiplies": 0}, "multiplies are gone"),
        ({"wide_stores": 0}, "wide stores are gone"),
    ],
)
def test_what_a_gate_refuses(change, message):
    (wrong,) = replace(GATE, **change).compare(GATE)
    assert wrong.startswith("k<float> for 86: ")
    assert message in wrong


def test_what_a_gate_lets_pass():
    assert GATE.compare(GATE) == []
    assert replace(GATE, registers=90, wide_loads=3, multiplies=4).compare(GATE) == []
    assert "not in gates.csv" in GATE.compare(None)[0]


@pytest.mark.parametrize(
    ("target", "threads", "registers", "shared_bytes", "blocks"),
    [
        # By registers: 65536 / (104 * 128) and 65536 / (256 * 256).
        ("80", 128, 100, 0, 4),
        ("90", 256, 255, 0, 1),
        # By warps, by blocks, by shared memory.
        ("86", 256, 32, 0, 6),
        ("80", 64, 16, 0, 32),
        ("86", 32, 16, 0, 16),
        ("86", 128, 32, 48 * 1024, 2),
        ("90", 128, 32, 227 * 1024, 1),
        ("120", 128, 32, 100 * 1024, 0),
    ],
)
def test_blocks_of_a_multiprocessor(target, threads, registers, shared_bytes, blocks):
    gate = replace(GATE, target=target, threads=threads, registers=registers)
    assert gate.blocks(shared_bytes) == blocks


@needs_nvcc
def test_a_kernel_that_spills_is_seen(tmp_path):
    source = tmp_path / "spill.cu"
    source.write_text(
        "struct Params { float* x; };\n"
        "__global__ void __launch_bounds__(1024, 2) spill_kernel(const Params p) {\n"
        "  float v[64];\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; ++i) v[i] = p.x[i * 1024 + threadIdx.x];\n"
        "  __syncthreads();\n"
        "#pragma unroll\n"
        "  for (int i = 0; i < 64; ++i) p.x[(63 - i) * 1024 + threadIdx.x] = v[i] * v[63 - i];\n"
        "}\n"
    )
    (gate,) = gates.compile_gates(source, "80")
    assert (gate.kernel, gate.threads) == ("spill_kernel", 1024)
    assert gate.registers <= 32
    assert gate.spills > 0
    assert gate.local > 0
