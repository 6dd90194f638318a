from dataclasses import replace

import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import why_not
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.testing import assert_matches_oracle
from tts_kernels.testing.plans import Shape, random_case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# (q_heads, kv_heads): one query per row, odd and even groups, one kv head for many.
HEADS = [(1, 1), (3, 3), (6, 2), (4, 1), (14, 2), (16, 1)]
STORED = [torch.int8, torch.float8_e4m3fn]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch):
    """The interpreter takes as long for a small tile as for a large one."""
    if _ext.triton_interpreted():
        from tts_kernels.ops.tree_attention import _triton, _triton_tiles

        monkeypatch.setattr(_triton, "tallest", lambda *_: _triton_tiles.Tiles(256, 64, 32, 8, 3))


def check(backend, case, company=None, **options):
    """``backend`` against the oracle; the reference first, in float64, where only a wrong key makes a difference.

    company: a larger case of the same kind whose rounding counts for the tolerance: few rows may round well by luck.
    """
    args = (case.q, case.k_pages, case.v_pages)
    oracle_out, oracle_lse = case.oracle(**options)
    options |= {"k_scales": case.k_scales, "v_scales": case.v_scales}
    wide = [x.double() if x.dtype in DTYPES else x for x in args]
    exact_out, exact_lse = tree_attention(*wide, case.plan, return_lse=True, backend="reference", **options)
    torch.testing.assert_close(exact_out, oracle_out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exact_lse.double(), oracle_lse, rtol=1e-6, atol=1e-6)
    out, lse = tree_attention(*args, case.plan, return_lse=True, backend=backend, **options)
    same_out, same_lse = tree_attention(*args, case.plan, return_lse=True, backend="reference", **options)
    assert out.dtype == case.q.dtype
    assert lse.dtype == torch.float32
    if company is not None:
        more_oracle, more_same = company.oracle(), company_reference(company)
        out, same_out, oracle_out = (
            torch.cat(x) for x in ((out, more_same[0]), (same_out, more_same[0]), (oracle_out, more_oracle[0]))
        )
    assert_matches_oracle(out, oracle_out, same_out, "out")
    assert_matches_oracle(lse, oracle_lse, same_lse, "lse")


def company_reference(case):
    return tree_attention(case.q, case.k_pages, case.v_pages, case.plan, return_lse=True, backend="reference")


@pytest.mark.parametrize("head_dim", [1, 16, 33, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(backend, device, dtype, head_dim):
    check(backend, random_case(Shape(head_dim=head_dim), dtype, device, seed=head_dim))


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads(backend, device, dtype, heads):
    check(backend, random_case(Shape(q_heads=heads[0], kv_heads=heads[1], nodes=24), dtype, device, seed=1))


@pytest.mark.parametrize("page_size", [1, 4, 16, 100, 128])
@pytest.mark.parametrize("row_tokens", [1, 20])
def test_page_sizes(backend, device, page_size, row_tokens):
    shape = Shape(page_size=page_size, row_tokens=row_tokens, node_tokens=150, nodes=8 if backend == "triton" else 12)
    check(backend, random_case(shape, torch.float32, device, seed=page_size))


@pytest.mark.parametrize("window", [0, 1, 7, 64, 10_000])
@pytest.mark.parametrize("row_tokens", [1, 70])
def test_windows(backend, device, window, row_tokens):
    # The interpreter is slow.
    shape = Shape(row_tokens=row_tokens, node_tokens=100, nodes=6 if backend == "triton" else 12)
    check(backend, random_case(shape, torch.float32, device, seed=2), window=window)


@pytest.mark.parametrize("options", [{"softcap": 3.0}, {"softcap": 50.0}, {"scale": 0.0}, {"scale": 0.7}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores(backend, device, dtype, options):
    check(backend, random_case(Shape(row_tokens=3), dtype, device, seed=3), **options)


@pytest.mark.parametrize("window", [0, 9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sinks(backend, device, dtype, window):
    """Larger and smaller than all scores, absent, and in between; rows in one part and in many, one without a key."""
    case = random_case(Shape(row_tokens=3, layers=4), dtype, device, seed=10)
    sinks = torch.tensor([60.0, -60.0, -torch.inf, 0.0, 2.0, -2.0, 5.0, 10.0], device=device)
    check(backend, case, sinks=sinks, window=window)


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pages_in_8_bits(backend, device, dtype, stored):
    case = random_case(Shape(row_tokens=2), dtype, device, seed=11, stored=stored)
    check(backend, case, softcap=20.0)
    check(backend, case)


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 63, 64, 65, 127, 129, 200])
def test_one_row(backend, device, tokens):
    """Around the edges of vectors and key tiles, and with a tail that grows into an unwritten page."""
    shape = one_unit(Shape(nodes=1, node_tokens=200, row_tokens=1, full=True, q_heads=32, kv_heads=8))
    case, pos = random_case(shape, torch.float32, device, seed=4), tokens - 1
    case.plan.row_pos.fill_(pos)
    check(backend, replace(case, rows=[(0, pos)]))


@pytest.mark.parametrize("seed", range(12))
def test_random_trees(backend, device, seed):
    """Wide and deep, from one row per tile to all, from one unit per row to many parts."""
    tall = Shape(nodes=14, node_tokens=20, row_tokens=1 + seed % 3, page_size=4, tile_rows=1 + seed, layers=5)
    wide = Shape(nodes=30, node_tokens=6, row_tokens=1, page_size=2, tile_rows=64, layers=1 + seed % 2)
    for shape in (tall, wide):
        check(backend, random_case(shape, torch.float32, device, seed), window=(0, 30)[seed % 2])


@pytest.mark.parametrize("rows", [5, 6, 7, 11, 13, 47, 48, 49, 97])
def test_row_block_edges(backend, device, rows):
    """Many rows of one node in one unit: every size of the last block of rows."""
    shape = Shape(nodes=1, node_tokens=130, row_tokens=100, full=True, q_heads=8, kv_heads=8)
    case = random_case(one_unit(shape), torch.float32, device, seed=13)
    check(backend, first_rows(case, rows), company=case)


def one_unit(shape):
    return replace(shape, layers=1, tile_rows=10_000)


def first_rows(case, count):
    """The case without its later rows; all rows are in the one unit of the plan."""
    plan = case.plan
    assert len(plan.units) == 1 and count < len(case.rows)
    units, runs, reads = plan.units.clone(), plan.runs.clone(), plan.reads.clone()
    units[:, 1] = units[:, 1].clamp(max=count)
    runs[:, 1] = runs[:, 1].clamp(max=count)
    reads[:, 3] = reads[:, 3].clamp(max=count)
    plan = replace(
        plan, units=units, runs=runs, reads=reads, row_pos=plan.row_pos[:count].clone(),
        join_ptr=plan.join_ptr[: count + 1].clone(), num_rows=count, max_unit_rows=count,
    )  # fmt: skip
    return replace(case, plan=plan, q=case.q[:count], rows=case.rows[:count])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [33, 64, 80])
def test_every_instruction_set(isa, dtype, head_dim):
    shape = Shape(nodes=8, node_tokens=90, row_tokens=5, q_heads=6, head_dim=head_dim, tile_rows=20)
    for options in ({}, {"softcap": 10.0, "window": 40}):
        check("native", random_case(shape, dtype, CPU, seed=5), **options)


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_every_instruction_set_with_pages_in_8_bits(isa, stored):
    for dtype in (torch.float32, torch.bfloat16):
        shape = Shape(row_tokens=2, nodes=14, head_dim=48)
        check("native", random_case(shape, dtype, CPU, seed=12, stored=stored), window=30)


def test_thread_count_does_not_show(isa):
    case = random_case(Shape(nodes=20, node_tokens=60), torch.float32, CPU, seed=6)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(tree_attention(case.q, case.k_pages, case.v_pages, case.plan, return_lse=True, backend="native"))
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_rows_do_not_show(isa, dtype):
    """In an invariant plan a row's bits are the same with and without the other rows of its runs."""
    shape = Shape(nodes=1, node_tokens=200, row_tokens=30, full=True, q_heads=6)
    case = random_case(one_unit(shape), dtype, CPU, seed=7)
    case = replace(case, plan=replace(case.plan, invariant=True))
    for window in (0, 20):
        args = (case.k_pages, case.v_pages)
        together = tree_attention(case.q, *args, case.plan, window=window, backend="native")
        for count in (1, 2, 7):
            part = first_rows(case, count)
            alone = tree_attention(part.q, *args, part.plan, window=window, backend="native")
            assert torch.equal(alone, together[:count])


def test_nan_stays_where_it_is_seen(backend, device):
    """A NaN query spoils its row only, NaN values of a leaf the rows of that leaf only.

    A tensor core multiplies what a row does not see by 0: there a NaN value may spoil the unit.
    """
    case = random_case(Shape(nodes=12, node_tokens=30, page_size=1, tile_rows=64), torch.float32, device, seed=9)
    q, k, v, plan = case.q, case.k_pages, case.v_pages, case.plan
    clean = tree_attention(q, k, v, plan, backend=backend)
    row = max(r for r, (_, pos) in enumerate(case.rows) if pos >= 0)
    leaf = case.nodes[case.rows[row][0]]
    assert leaf.leaf
    assert leaf.row_end - leaf.row_begin == 1
    others = torch.arange(len(case.rows), device=device) != row

    spoilt_q = q.clone()
    spoilt_q[row] = torch.nan
    spoilt_v = v.clone()
    own = [run for run in plan.runs.tolist() if run[0] == row and run[1] == row + 1 and run[3] >= leaf.base]
    for _, _, page_begin, base, length in own:
        written = min(length, leaf.base + leaf.length - base)
        spoilt_v[plan.pages[page_begin : page_begin + written].long()] = torch.nan
    tensor_cores = backend == "triton" or (backend == "native" and _ext.runs_cuda_kernels(device))
    for args in ((spoilt_q, k, v), (q, k, spoilt_v))[: 1 if tensor_cores else 2]:
        out = tree_attention(*args, plan, backend=backend)
        assert torch.isnan(out[row]).all()
        assert torch.equal(out[others], clean[others])


def test_no_rows(backend, device):
    case = random_case(Shape(nodes=1, layers=1), torch.float32, device)
    empty = {name: getattr(case.plan, name)[:0] for name in ("units", "runs", "pages", "row_pos", "join_slots")}
    plan = replace(case.plan, **empty, join_ptr=case.plan.join_ptr[:1], num_slots=0, num_rows=0)
    out, lse = tree_attention(case.q[:0], case.k_pages, case.v_pages, plan, return_lse=True, backend=backend)
    assert out.shape == (0, 8, 64)
    assert lse.shape == (0, 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_queries(backend, device, dtype):
    case = random_case(Shape(), dtype, device)
    args = (case.k_pages, case.v_pages, case.plan)
    wanted = tree_attention(case.q, *args, backend=backend)
    rows, heads, dim = case.q.shape
    by_head = case.q.new_full((heads + 1, rows, dim + 3), torch.nan)[:heads, :, 2:-1].transpose(0, 1)
    by_dim = case.q.new_full((dim, rows, heads), torch.nan).permute(1, 2, 0)
    for view in (by_head, by_dim):
        view.copy_(case.q)
        assert torch.equal(tree_attention(view, *args, backend=backend), wanted)


def test_bad_input():
    case = random_case(Shape(), torch.float32, CPU)
    q, k, v, plan = case.q, case.k_pages, case.v_pages, case.plan
    rows = len(q)
    with pytest.raises(ValueError, match=r"tree_attention: q must be \[N, Hq, D\], got"):
        tree_attention(q[0], k, v, plan)
    with pytest.raises(ValueError, match=r"v_pages must be \[pages, Hkv, page_size, D\], got .*pages=\d+ from k_pages"):
        tree_attention(q, k, v[1:], plan)
    with pytest.raises(ValueError, match="D=32 from q"):
        tree_attention(q[..., :32], k, v, plan)
    with pytest.raises(TypeError, match=r"q must be float32 or .*, got int32"):
        tree_attention(q.int(), k, v, plan)
    with pytest.raises(TypeError, match=r"k_pages must have the dtype of q, torch\.float32, got torch\.bfloat16"):
        tree_attention(q, k.bfloat16(), v, plan)
    with pytest.raises(ValueError, match="v_pages must have the device of q, cpu, got meta"):
        tree_attention(q, k, v.to("meta"), plan)
    with pytest.raises(ValueError, match="v_pages must be contiguous"):
        tree_attention(q, k, v.transpose(1, 2).contiguous().transpose(1, 2), plan)
    with pytest.raises(ValueError, match="query heads must be a multiple of 2 kv heads, got 3"):
        tree_attention(q[:, :3], k, v, plan)
    with pytest.raises(ValueError, match="page_size of k_pages must be 8 as in plan, got 16"):
        tree_attention(q, k, v, replace(plan, page_size=8))
    with pytest.raises(ValueError, match=f"rows of q must be {rows} as in plan, got {rows - 1}"):
        tree_attention(q[1:], k, v, plan)
    with pytest.raises(ValueError, match="head_dim must be 1 to 256, got 257"):
        tree_attention(torch.zeros(rows, 8, 257), torch.zeros(1, 2, 16, 257), torch.zeros(1, 2, 16, 257), plan)
    for name, value in [("scale", -1.0), ("scale", float("inf")), ("softcap", -1.0), ("softcap", float("nan")),
                        ("window", -1), ("window", 1.5)]:  # fmt: skip
        with pytest.raises(ValueError, match=f"tree_attention: {name} must be .*, got"):
            tree_attention(q, k, v, plan, **{name: value})
    with pytest.raises(ValueError, match=r"sinks must be \[Hq\], got \[7\] \(Hq=8 from q\)"):
        tree_attention(q, k, v, plan, sinks=torch.zeros(7))
    with pytest.raises(TypeError, match="sinks must be float32, got float64"):
        tree_attention(q, k, v, plan, sinks=torch.zeros(8).double())
    scales = torch.ones(k.shape[:2])
    with pytest.raises(TypeError, match=r"k_scales must come with int8 or .* pages, got some for torch\.float32"):
        tree_attention(q, k, v, plan, k_scales=scales, v_scales=scales)
    with pytest.raises(TypeError, match=r"v_scales must come with int8 or .* pages, got none for torch\.int8"):
        tree_attention(q, k.char(), v.char(), plan, k_scales=scales)
    with pytest.raises(TypeError, match=r"v_pages must have the dtype of k_pages, torch\.int8, got torch\.float32"):
        tree_attention(q, k.char(), v, plan, k_scales=scales, v_scales=scales)
    with pytest.raises(ValueError, match="k_scales must be contiguous"):
        tree_attention(q, k.char(), v.char(), plan, k_scales=scales.T.contiguous().T, v_scales=scales)
    if why_not("tree_attention", "triton", CPU) is not None:
        with pytest.raises(RuntimeError, match="tree_attention: backend 'triton' cannot run here"):
            tree_attention(q, k, v, plan, backend="triton")
