"""Draws the README's figures and writes its tables, all from ``results/*.csv``."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import median

import matplotlib
import plot_bench
import plot_tables

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
FIGURE = HERE / "results" / "demo.png"
TRAFFIC_FIGURE = HERE / "results" / "traffic.png"


def read(name: str) -> list[dict[str, str]]:
    with (HERE / "results" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def kv_gigabytes(row: dict[str, str], suffix: str = "") -> float:
    return (int(row[f"policy_kv_bytes{suffix}"]) + int(row[f"prm_kv_bytes{suffix}"])) / 1e9


def draw(demo: list[dict[str, str]]) -> None:
    names = [row["search"].replace(", ", ",\n") for row in demo]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.bar(names, [100 * float(row["accuracy"]) for row in demo], color="#4c72b0")
    left.set_ylabel("problems solved, %")
    left.set_title(f"{demo[0]['problems']} held-out arithmetic chains")
    places = range(len(demo))
    right.bar(
        [p - 0.2 for p in places], [kv_gigabytes(r, "_unshared") for r in demo], 0.4, label="unshared", color="#c9c9c9"
    )
    right.bar([p + 0.2 for p in places], [kv_gigabytes(r) for r in demo], 0.4, label="tts_kernels", color="#4c72b0")
    right.set_xticks(list(places), names)
    right.set_ylabel("KV read, GB")
    right.set_title("memory traffic of the same searches")
    right.legend(frameon=False, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    figure.savefig(FIGURE, dpi=130)


HEADS = ("32/32", "32/8", "64/8", "16/1")


def over_floor(traffic: list[dict[str, str]], kind: str = "fasttree") -> dict[str, dict[str, list[float]]]:
    """Requested bytes over the floor: system -> heads -> one figure per tree."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in traffic:
        if row["kind"] == kind and row["system"] != "floor":
            heads = f"{row['q_heads']}/{row['kv_heads']}"
            found.setdefault(row["system"], {}).setdefault(heads, []).append(float(row["over_floor"]))
    return found


def draw_traffic(traffic: list[dict[str, str]]) -> None:
    """Every tree of FastTree's, 32/8 heads: one line per system."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for system, by_heads in over_floor(traffic).items():
        ours = system.startswith("ours")
        axes.plot(range(1, 16), by_heads["32/8"], marker="o", lw=2.5 if ours else 1, ms=5 if ours else 3, label=system)
    axes.set_yscale("log")
    axes.set_xticks(range(1, 16))
    axes.set_xlabel("FastTree's fifteen trees")
    axes.set_ylabel("requested bytes / (KV once + queries + results)")
    axes.set_title("one attention call, 32/8 heads of 128, bfloat16: counted")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(TRAFFIC_FIGURE, dpi=130)


def traffic_table(traffic: list[dict[str, str]]) -> list[str]:
    lines = [
        "Bytes that one attention call requests over the least possible (KV once, queries, results): median and worst",
        "of FastTree's fifteen trees, heads of 128 in bfloat16, counted from the plans and not timed:",
        "",
        f"| query/kv heads | {' | '.join(HEADS)} |",
        f"|---|{'---|' * len(HEADS)}",
    ]
    for system, by_heads in over_floor(traffic).items():
        cells = [f"{median(by_heads[heads]):.2f} / {max(by_heads[heads]):.2f}" for heads in HEADS]
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return lines


def tables(demo: list[dict[str, str]], traffic: list[dict[str, str]]) -> str:
    lines = [
        f"Searches of `make demo` ({demo[0]['problems']} problems; {demo[0]['device']}, one thread):",
        "",
        "| search | solved | policy tokens | PRM tokens | if it read paths whole | KV read | unshared | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in demo:
        cells = [
            r["search"],
            f"{float(r['accuracy']):.1%}",
            f"{int(r['policy_tokens']):,}",
            f"{int(r['prm_tokens']):,}",
            f"{int(r['prm_whole_path_tokens']):,}",
        ]
        cells += [f"{kv_gigabytes(r):.2f} GB", f"{kv_gigabytes(r, '_unshared'):.2f} GB", r["seconds"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            *plot_tables.tables(),
            *beam_table(read("beam")),
            "",
            *memory_table(read("prm_memory")),
            "",
            *traffic_table(traffic),
            "",
            *search_table(read("search")),
            "",
            *findings_table(read("search_findings")),
        ]
    )


def beam_table(beam: list[dict[str, str]]) -> list[str]:
    b = beam[0]
    lines = [
        f"Beam search with a reward model: {b['branches']} branches x {b['depth']} steps of {b['step_tokens']} tokens "
        f"over a prompt of {b['prefix']}, both models of SmolLM2-135M's shape in {b['dtype']} ({b['device']}, threads: "
        f"{b['threads']}; one run). The other is search-and-learn's scheme on transformers; its generation would gain "
        "from a server with a prefix cache, its scoring is as published:",
        "",
        "| system | seconds | generation | scoring | policy tokens | PRM tokens |",
        "|---|---|---|---|---|---|",
    ]
    for r in beam:
        cells = [r["system"], r["seconds"], r["seconds_generation"], r["seconds_scoring"]]
        cells += [f"{int(r['policy_tokens']):,}", f"{int(r['prm_tokens']):,}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def memory_table(memory: list[dict[str, str]]) -> list[str]:
    sizes = sorted({int(r["vocab"]) for r in memory})
    peaks = {(r["system"], int(r["vocab"])): float(r["peak_mb"]) for r in memory}
    lines = [
        "Peak memory of scoring 8 paths of 512 tokens, beyond the weights:",
        "",
        f"| system | {' | '.join(f'vocabulary of {size:,}' for size in sizes)} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for system in dict.fromkeys(r["system"] for r in memory):
        lines.append(f"| {system} | {' | '.join(f'{peaks[system, size]:,.0f} MB' for size in sizes)} |")
    return lines


VERDICTS = ("yes", "no", "undecided")
SEARCHES = (
    ("majority", "best-of-n", "majority"), ("best-of-N, weighted", "best-of-n", "weighted-prod"),
    ("beam, M = 4", "beam:width=4", "weighted-prod"), ("beam, M = sqrt N", "beam:width=sqrt", "weighted-prod"),
    ("lookahead 1", "lookahead:width=4,ahead=1", "weighted-prod"),
    ("lookahead 3", "lookahead:width=4,ahead=3", "weighted-prod"),
    ("DVTS", "dvts:width=4", "weighted-prod"), ("REBASE", "rebase:temperature=0.1", "weighted-prod"),
    ("ETS", "ets", "weighted-prod"), ("MCTS, UCT", "mcts:rule=uct", "weighted-prod"),
    ("MCTS, PUCT", "mcts:rule=puct,exploration=1.25", "weighted-prod"), ("particles", "particles", "weighted-prod"),
    ("adaptive", "adaptive:agree=3", "weighted-prod"),
    ("compute-optimal, oracle bins", "compute-optimal, oracle bins", "weighted-prod"),
    ("compute-optimal, predicted bins", "compute-optimal, predicted bins", "weighted-prod"),
)  # fmt: skip


def search_table(rows: list[dict[str, str]]) -> list[str]:
    """Accuracy and mean cost of every search, at four budgets."""
    budgets = ("4", "16", "64", "256")
    found = {
        (r["strategy"], r["select"], r["budget"]): r
        for r in rows
        if (r["model"], r["aggregate"], r["seed"]) == ("small", "prod", "0")
    }

    def cell(strategy: str, select: str, budget: str) -> str:
        row = found.get((strategy, select, budget))
        if row is None:
            return ""
        text = f"{100 * float(row['accuracy']):.1f} [{100 * float(row['low']):.0f}, {100 * float(row['high']):.0f}]"
        if not row["policy_flops"]:
            return text
        return text + f" {(float(row['policy_flops']) + float(row['scorer_flops'])) / 1e9:.2f}"

    lines = [
        "Problems solved, % [95 % interval] and GFLOPs of policy and PRM a problem; "
        f"{rows[0]['problems']} held-out problems, the shipped models, by solutions allowed "
        "(`benchmarks/bench_search.py`, [all of it](benchmarks/results/search.csv), "
        "[figure](benchmarks/results/search.png)):",
        "",
        f"| search | {' | '.join(budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for label, strategy, select in SEARCHES:
        lines.append(f"| {label} | {' | '.join(cell(strategy, select, budget) for budget in budgets)} |")
    return lines


def findings_table(findings: list[dict[str, str]]) -> list[str]:
    """How often each finding of the papers shows."""
    lines = [
        "What the papers found, as paired differences on the same problems: in how many of the comparisons the 95 % "
        "interval lies above zero (shows), below it (the other way round), or holds it "
        "([every comparison](benchmarks/results/search_findings.csv)). The single strategy that the compute-optimal "
        "choice is compared with is the best one in hindsight, on all problems; the choice is made on half of a bin, "
        "20 problems:",
        "",
        "| finding | shows | the other way | undecided |",
        "|---|---|---|---|",
    ]
    for claim in dict.fromkeys(row["claim"] for row in findings):
        counts = [sum(r["claim"] == claim and r["holds"] == verdict for r in findings) for verdict in VERDICTS]
        lines.append(f"| {claim} | {' | '.join(map(str, counts))} |")
    return lines


def main() -> None:
    demo, traffic = read("demo"), read("traffic")
    draw(demo)
    draw_traffic(traffic)
    plot_bench.draw_all()
    text = README.read_text()
    block = f"<!-- results -->\n{tables(demo, traffic)}\n<!-- /results -->"
    README.write_text(re.sub(r"<!-- results -->.*<!-- /results -->", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
