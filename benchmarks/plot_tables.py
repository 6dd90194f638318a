"""The README's tables of speed, of ops, of memory and of growing trees. ``plot.py`` calls it.

What was not measured yet is left out.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from op_rows import ISAS

RESULTS = Path(__file__).parent / "results"
Row = dict[str, str]
# Shapes of bench_decode.py that have a table: branches, prefix, new tokens.
DECODED = (("32", "1024", "64"), ("128", "4096", "64"))
OURS = "tts_kernels"
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
# Cases that have a line of their own in the README, by the beginning of their shape.
FEATURED = {
    "tree_attention": (
        "32 rows, 1,024 shared + 32 own, 9/3",
        "64 rows, 2,048 shared, 32/8",
        "32 rows, 4,096 own, 32/8",
    ),
    "linear": ("32 rows, 576 to 1536", "32 rows, 576 to 49152"),
    "rms_norm": ("32 rows of 576",),
    "silu_mul": ("32 rows of 1536",),
    "merge_states": ("8 parts, 64 rows",),
    "write_kv": ("32 rows", "4096 tokens"),
    "copy_pages": ("31 copies",),
    "sample_children": ("32 rows of 49,152, a child each", "32 rows of 151,936, 4 distinct"),
    "score_steps": ("64 steps of 576",),
    "select_children": ("topk, 64 x 16",),
}


def read(name: str) -> list[Row]:
    """Rows of a CSV; none when it is not there, or has other columns than those of now."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def decoded() -> list[Row]:
    return [row for row in read("decode") if "mode" in row]


def ops() -> list[Row]:
    """Rows of the best build of the kernels that was measured, which is the one that is used."""
    rows = read("ops")
    best = max((ISAS.index(row["isa"]) for row in rows), default=0)
    return [row for row in rows if row["isa"] == ISAS[best]]


def label(row: Row) -> str:
    return OURS if row["system"] == OURS else f"{row['system'].replace('_', '.')}, {row['mode']}"


def table(heads: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    head, *rest = (f"| {' | '.join(line)} |" for line in (heads, *lines))
    return [head, f"|{'---|' * len(heads)}", *rest]


def decode_tables() -> list[str]:
    lines: list[str] = []
    for shape in DECODED:
        rows = [r for r in decoded() if (r["branches"], r["prefix"], r["new"]) == shape]
        if not rows:
            continue
        branches, prefix, new = (f"{int(size):,}" for size in shape)
        rows.sort(key=lambda r: (r["dtype"], int(r["threads"]), float(r["seconds"] or "inf")))
        lines += [
            f"{branches} branches over a prefix of {prefix} tokens, {new} new tokens each, a model of SmolLM2-135M's "
            f"shape ({rows[0]['device']}; prefill included; memory beyond the weights; rounds taken in turns, `ours` "
            "is how many times faster we are in the same rounds):",
            "",
            *table(("system", "dtype", "threads", "tokens/s", "ours", "peak memory"), [decode_line(r) for r in rows]),
            "",
        ]
    return lines


def decode_line(row: Row) -> tuple[str, ...]:
    start = (label(row), SHORT[row["dtype"]], row["threads"])
    if not row["seconds"]:
        return *start, row["reason"][:60], "", ""
    ours = "" if row["system"] == OURS or not row["ours_faster"] else f"{float(row['ours_faster']):.1f}x"
    return *start, row["tokens_per_second"], ours, f"{int(row['beyond_weights_mb']):,} MB"


def ops_tables() -> list[str]:
    """The featured cases, on one thread, and how many of all are slower than something else."""
    everything = ops()
    rows = [r for r in everything if r["threads"] == "1" and r["shape"].startswith(FEATURED.get(r["op"], ()))]
    if not rows:
        return []
    slower = [r for r in everything if r["slower_than"]]
    least = [
        f"{r['op']}, {r['shape']}, {short(r['dtype'])}, threads: {r['threads']} ({r['slower_than']})" for r in slower
    ]
    heads = ("op", "shape", "dtype", "ms", "torch", "its ms", "torch / ours", "% of FMA peak", "% of bandwidth")
    return [
        f"Our kernels against torch's fastest way to do the same, {rows[0]['device']}, one thread. Peak: float32 "
        "multiply-adds from registers (products of bfloat16 can pass it); bandwidth: reading 512 MB (what stays in "
        "caches can pass it); both timed in the same rounds ([every case](benchmarks/results/ops.csv), "
        "[roofline](benchmarks/results/roofline.png)):",
        "",
        *table(heads, [op_line(row) for row in rows]),
        "",
        f"No way of torch's and no reference is faster in {len(everything) - len(slower)} of {len(everything)} cases; "
        f"the others: {'; '.join(least) or 'none'}.",
        "",
    ]


def op_line(row: Row) -> tuple[str, ...]:
    percents = (f"{float(row[name]):.0f}" if row[name] else "" for name in ("pct_of_fma", "pct_of_bandwidth"))
    ratio = f"{float(row['torch_ratio']):.1f}" if row["torch_ratio"] else ""
    start = (row["op"], row["shape"], short(row["dtype"]), row["ms"])
    return *start, row["torch"], row["torch_ms"], ratio, *percents


def short(dtype: str) -> str:
    return SHORT.get(dtype, dtype)


def grouped(rows: list[Row], key: Callable[[Row], tuple[str, ...]]) -> list[list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def memory_line() -> list[str]:
    rows = read("memory")
    if not rows:
        return []
    parts = [f"{r['branches']}: {float(r['peak_mb']):,.0f} MB, {float(r['ratio']):.2f}x" for r in rows]
    return [
        f"Peak memory of such a search, {SHORT[rows[0]['dtype']]}, by branches, and over the closed form of "
        f"`benchmarks/bench_memory.py` ([figure](benchmarks/results/memory.png)): {'; '.join(parts)}.",
        "",
    ]


def scaling_line() -> list[str]:
    rows = read("scaling")
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    return [
        f"Time of a new token from {int(first['unique_tokens']):,} to {int(last['unique_tokens']):,} tokens in the "
        f"forest, {first['rows']} rows, {first['layers']} layers ([figure](benchmarks/results/scaling.png)): "
        f"{float(first['fit_start_ms']):.2f} ms + {float(first['fit_ns_per_unique_token']):.1f} ns a token, "
        f"R² {float(first['r2']):.4f}.",
        "",
    ]


def tables() -> list[str]:
    return [*decode_tables(), *ops_tables(), *memory_line(), *scaling_line()]
