"""Figures of speed and memory against the size of the tree, and of ops under what the machine can do.

``plot.py`` calls it. What was not measured yet is left out.
"""

from __future__ import annotations

from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from plot_tables import OURS, RESULTS, SHORT, Row, decoded, grouped, label, ops, read

AXES = (("branches", "prefix"), ("prefix", "branches"))
MARKERS = {"tree_attention": "o", "linear": "^"}
COLOURS = {"float32": "#4c72b0", "bfloat16": "#c44e52", "float16": "#8172b3", "int8": "#55a868"}
STANDARD = {"branches": "32", "prefix": "1024", "new": "64"}


def clean(*all_axes: Axes) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)


def draw_decode() -> None:
    """Tokens per second and memory against branches and against the prefix, the other one as in the first table."""
    rows = [r for r in decoded() if r["seconds"] and r["threads"] == "1" and r["dtype"] == "bfloat16"]
    figure, panels = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained", squeeze=False)
    drawn = False
    for (name, other), column in zip(AXES, panels.T, strict=True):
        chosen = [r for r in rows if r[other] == STANDARD[other] and r["new"] == STANDARD["new"]]
        for group in grouped(chosen, lambda r: (r["system"], r["mode"])):
            group.sort(key=lambda r: int(r[name]))
            drawn = drawn or len(group) > 1
            width = 2.5 if group[0]["system"] == OURS else 1
            x = [int(r[name]) for r in group]
            for axes, figure_name in zip(column, ("tokens_per_second", "beyond_weights_mb"), strict=True):
                axes.plot(x, [float(r[figure_name]) for r in group], marker="o", ms=4, lw=width, label=label(group[0]))
        for axes, words in zip(column, ("new tokens per second", "peak memory beyond weights, MB"), strict=True):
            axes.set(xscale="log", yscale="log", xlabel=f"{name}, {STANDARD[other]} {other}", ylabel=words)
    clean(*panels.flat)
    handles = dict(zip(*panels[0, 0].get_legend_handles_labels()[::-1], strict=True))
    if drawn:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        figure.savefig(RESULTS / "decode.png", dpi=130)
    plt.close(figure)


def draw_memory() -> None:
    rows = read("memory")
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    x = [int(r["branches"]) for r in rows]
    axes.plot(x, [float(r["closed_form_mb"]) for r in rows], color="#c9c9c9", lw=4, label="closed form")
    axes.plot(x, [float(r["peak_mb"]) for r in rows], marker="o", color="#4c72b0", label="measured")
    axes.set(xscale="log", yscale="log", xlabel=f"branches over {rows[0]['prefix']} tokens", ylabel="peak memory, MB")
    axes.set_xticks(x, [str(count) for count in x])
    axes.legend(frameon=False)
    clean(axes)
    figure.savefig(RESULTS / "memory.png", dpi=130)
    plt.close(figure)


def draw_scaling() -> None:
    rows = read("scaling")
    if not rows:
        return
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    x = [int(r["unique_tokens"]) for r in rows]
    start, slope = (float(rows[0][name]) for name in ("fit_start_ms", "fit_ns_per_unique_token"))
    for axes, scale in zip(both, ("linear", "log"), strict=True):
        axes.plot(x, [start + slope * count / 1e6 for count in x], color="#c9c9c9", lw=3, label="line of least squares")
        axes.plot(x, [float(r["ms_per_token"]) for r in rows], "o", ms=4, color="#4c72b0", label="measured")
        axes.set(xscale=scale, yscale=scale, xlabel="unique tokens in the forest", ylabel="ms per new token")
    both[0].legend(frameon=False, title=f"R² {float(rows[0]['r2']):.4f}")
    clean(*both)
    figure.savefig(RESULTS / "scaling.png", dpi=130)
    plt.close(figure)


def draw_roofs(axes: Axes, rows: list[Row]) -> None:
    def measured(name: str) -> float:
        return median([float(r[name]) for r in rows if r[name]] or [0.0])

    bandwidth, low, high = measured("bandwidth_gbs"), 0.1, 1000.0
    for name, words in (("fma_gflops", "float32 multiply-adds"), ("bf16_gflops", "bfloat16 products")):
        peak = measured(name)
        if peak:
            axes.plot([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color="#888888", lw=1)
            axes.annotate(words, (high, peak), ha="right", va="bottom", fontsize=7, color="#555555")
    axes.annotate(
        f"reading: {bandwidth:.1f} GB/s", (low, low * bandwidth), va="bottom", rotation=38, fontsize=7, color="#555555"
    )


def draw_roofline() -> None:
    """One thread: what is done in a second, against what is done with a byte that must be moved."""
    rows = [r for r in ops() if r["op"] in MARKERS and r["threads"] == "1" and r["gflops"] and r["gbs"]]
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    draw_roofs(axes, rows)
    for group in grouped(rows, lambda r: (r["op"], r["dtype"])):
        op, dtype = group[0]["op"], group[0]["dtype"]
        speeds = [float(r["gflops"]) for r in group]
        intensity = [float(r["gflops"]) / float(r["gbs"]) for r in group]
        words = f"{op}, {SHORT.get(dtype, dtype)}"
        axes.plot(intensity, speeds, MARKERS[op], ms=5, color=COLOURS[dtype], alpha=0.8, label=words)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte that must be read", ylabel="GFLOP/s, one thread")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
    clean(axes)
    figure.savefig(RESULTS / "roofline.png", dpi=130)
    plt.close(figure)


def draw_all() -> None:
    draw_decode()
    draw_memory()
    draw_scaling()
    draw_roofline()
