"""Draws ``results/search.png`` from ``results/search.csv``, in the form of the papers' figures."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from plot import HERE, read

FIGURE = HERE / "results" / "search.png"
BINS = [f"bin_{bin}" for bin in range(1, 6)]
Rows = list[dict[str, str]]

CURVES = {
    "best-of-n": "best-of-N",
    "beam:width=4": "beam, M = 4",
    "beam:width=sqrt": "beam, M = sqrt N",
    "dvts:width=4": "DVTS",
    "rebase:temperature=0.1": "REBASE",
    "particles": "particles",
    "ets": "ETS",
    "mcts:rule=uct": "MCTS, UCT",
    "lookahead:width=4,ahead=1": "lookahead 1",
    "lookahead:width=4,ahead=3": "lookahead 3",
}


def pick(
    rows: Rows, strategy: str, select: str = "weighted-prod", model: str = "small", aggregate: str = "prod"
) -> Rows:
    """The rows of one curve, by budget."""
    wanted = {"strategy": strategy, "select": select, "model": model, "aggregate": aggregate, "seed": "0"}
    return sorted((r for r in rows if wanted.items() <= r.items()), key=lambda row: int(row["budget"]))


def curve(axes: Any, rows: Rows, label: str, cost: str = "budget", **style: Any) -> None:
    """Accuracy in percent against the budget, or FLOPs, with its 95 % interval."""
    if not rows:
        return
    places = [
        float(row["budget"]) if cost == "budget" else float(row["policy_flops"]) + float(row["scorer_flops"])
        for row in rows
    ]
    mean, low, high = ([100 * float(row[key]) for row in rows] for key in ("accuracy", "low", "high"))
    (line,) = axes.plot(places, mean, marker="o", ms=3, label=label, **style)
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.08, lw=0)
    axes.set_xscale("log", base=2 if cost == "budget" else 10)


def by_budget(axes: Any, rows: Rows) -> None:
    curve(axes, pick(rows, "best-of-n", "majority"), "majority", ls=":")
    for strategy, label in CURVES.items():
        curve(axes, pick(rows, strategy), label)
    axes.set(xlabel="generations allowed", title="accuracy against the budget")


def by_flops(axes: Any, rows: Rows) -> None:
    curve(axes, pick(rows, "best-of-n", "majority"), "majority", "flops", ls=":")
    for strategy, label in CURVES.items():
        curve(axes, pick(rows, strategy), label, "flops")
    axes.set(xlabel="FLOPs of policy and PRM, per problem", title="accuracy against what was spent")


def by_bin(axes: Any, rows: Rows) -> None:
    """Best-of-N and beam search in each bin, a bar per budget (Snell et al., figure 3)."""
    budgets = [row["budget"] for row in pick(rows, "beam:width=4")][::2]
    width = 0.8 / (2 * max(1, len(budgets)))
    for kind, (strategy, color) in enumerate((("best-of-n", "tab:blue"), ("beam:width=4", "tab:orange"))):
        found = {row["budget"]: row for row in pick(rows, strategy)}
        for place, budget in enumerate(budgets):
            heights = [100 * float(found[budget][name]) for name in BINS]
            spots = [bin - 0.4 + width * (2 * place + kind) for bin in range(1, 6)]
            axes.bar(spots, heights, width, color=color, alpha=0.35 + 0.6 * place / len(budgets))
    axes.set(xlabel="difficulty, 1 the easiest", title=f"best-of-N (blue), beam (orange): N = {', '.join(budgets)}")


def optimal(axes: Any, rows: Rows) -> None:
    curve(axes, pick(rows, "best-of-n", "majority"), "majority", ls=":")
    curve(axes, pick(rows, "best-of-n"), "best-of-N")
    for name in ("oracle", "predicted"):
        curve(axes, pick(rows, f"compute-optimal, {name} bins"), f"compute-optimal, {name}")
    axes.set(xlabel="generations allowed", title="the compute-optimal choice")
    axes.legend(frameon=False, fontsize=7)


def ratios(axes: Any, rows: Rows) -> None:
    """Sequential revisions to parallel chains at one budget (Snell et al., figure 7)."""
    for budget in ("4", "16", "64"):
        for select, style in (("hierarchical-prod", "-"), ("majority", ":")):
            mine = [r for r in rows if r["model"] == "reviser" and r["budget"] == budget and r["select"] == select]
            mine.sort(key=sequential)
            if mine:
                places = [sequential(row) ** 2 / int(budget) for row in mine]
                axes.plot(places, [100 * float(r["accuracy"]) for r in mine], style, marker="o", ms=3,
                          label=f"{budget}, {select.split('-')[0]}")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set(xlabel="sequential : parallel", title="revisions")
    axes.legend(frameon=False, fontsize=7)


def sequential(row: dict[str, str]) -> int:
    return int(row["strategy"].split("sequential=")[1].split(",")[0])


def sizes(axes: Any, rows: Rows) -> None:
    """The large policy's greedy answer, and the small one's searches, by bin."""
    large = pick(rows, "greedy", model="large")
    series = [("large, greedy", large[:1]), ("small, greedy", pick(rows, "greedy"))]
    series += [(f"small, compute-optimal, {row['budget']}", [row]) for row in pick(rows, "compute-optimal, oracle bins")
               if row["budget"] in ("4", "16", "64", "256")]  # fmt: skip
    width = 0.8 / len(series)
    for place, (label, found) in enumerate(series):
        if found:
            spots = [bin - 0.4 + width * place for bin in range(1, 6)]
            axes.bar(spots, [100 * float(found[0][name]) for name in BINS], width, label=label)
    axes.set(xlabel="difficulty, 1 the easiest", title="sizes of policy")
    axes.legend(frameon=False, fontsize=7)


def main() -> None:
    rows = read("search")
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.5), layout="constrained")
    panels = (by_budget, by_flops, by_bin, optimal, ratios, sizes)
    for place, panel in zip(axes.flat, panels, strict=True):
        panel(place, rows)
        place.set_ylabel("problems solved, %")
        place.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
