"""Tables of the searches, the policy that compute-optimal search goes by, and whether the papers' findings show.

python benchmarks/analyse_search.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer
from bench_search import RUNS, Cell
from common import write_rows
from search_results import BINS, VOTE, Estimate, Results, sampling_at

from tts_kernels import assets
from tts_kernels.compute_optimal import fit

# FLOPs of inference over FLOPs of pretraining, as in section 7 of Snell et al.
RATIOS = (0.16, 0.79, 22.0)
SELECTS = (
    "weighted-prod", "weighted-min", "weighted-last", "best-prod", "best-min", "best-last", "guarded-last", "majority",
)  # fmt: skip


COSTS = ("generations", "tokens", "reused_tokens", "policy_flops", "scorer_flops", "kv_bytes")


def tables(results: Results) -> list[dict[str, object]]:
    """One row per cell and way of choosing the answer."""
    rows: list[dict[str, object]] = []
    for cell in results.cells:
        selects = [*SELECTS, "hierarchical-prod"] if cell.model == "reviser" else SELECTS
        for select in ("pass", *selects):
            if select != "pass" and select not in results.cells[cell][0]["right"]:
                continue
            row: dict[str, object] = {"model": cell.model, "strategy": cell.strategy, "aggregate": cell.aggregate}
            row |= {"budget": cell.budget, "seed": cell.seed, "select": select}
            row |= accuracies(results, results.right(cell, select))
            rows.append(row | {name: round(results.mean(cell, name)) for name in COSTS})
    for name, bins in (("oracle", results.oracle), ("predicted", results.predicted)):
        for budget in results.budgets:
            row = {"model": "small", "strategy": f"compute-optimal, {name} bins", "aggregate": "prod", "budget": budget}
            row |= {"seed": 0, "select": VOTE} | accuracies(results, results.optimal(budget, bins))
            rows.append(row | dict.fromkeys(COSTS, ""))
    return rows


def accuracies(results: Results, right: np.ndarray) -> dict[str, object]:
    estimate = Estimate.of(right)
    row: dict[str, object] = {"problems": len(right), "accuracy": round(estimate.mean, 4)}
    row |= {"low": round(estimate.low, 4), "high": round(estimate.high, 4)}
    return row | {f"bin_{bin + 1}": round(float(right[results.oracle == bin].mean()), 4) for bin in range(BINS)}


class Findings:
    """Differences between two systems on the same problems, in points, and whether they go the papers' way."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.rows: list[dict[str, object]] = []

    def add(self, claim: str, what: str, difference: np.ndarray) -> None:
        estimate = Estimate.of(difference)
        verdict = "yes" if estimate.low > 0 else "no" if estimate.high < 0 else "undecided"
        self.rows.append({
            "claim": claim, "measured": what, "problems": len(difference), "difference": round(100 * estimate.mean, 2),
            "low": round(100 * estimate.low, 2), "high": round(100 * estimate.high, 2), "holds": verdict,
        })  # fmt: skip

    def beam_against_sampling(self) -> None:
        r = self.results
        for strategy in ("beam:width=4", "beam:width=sqrt"):
            for cell in r.curve(strategy):
                other = Cell("best-of-n", cell.budget)
                if other in r:
                    self.add("beam ahead of best-of-N, most at small budgets",
                             f"{strategy} - best-of-n at {cell.budget}",
                             r.right(cell) - r.right(other))  # fmt: skip

    def lookahead_behind(self) -> None:
        """At equal cost: k more steps for every one that is kept, as the paper counts, and by FLOPs as spent here."""
        r = self.results
        for ahead, strategy in ((1, "lookahead:width=4,ahead=1"), (3, "lookahead:width=4,ahead=3")):
            for cell in r.curve(strategy):
                other = Cell("beam:width=4", cell.budget * (ahead + 1))
                if other in r:
                    self.add("lookahead behind beam at equal cost",
                             f"beam:width=4 at {other.budget} - {strategy} at {cell.budget} "
                             f"({r.flops(cell) / r.flops(other):.2f} of its FLOPs here)",
                             r.right(other) - r.right(cell))  # fmt: skip

    def compute_optimal(self) -> None:
        r = self.results
        for name, bins in (("oracle", r.oracle), ("predicted", r.predicted)):
            for budget in r.budgets:
                right, outcomes = r.optimal(budget, bins), r.outcomes(budget)
                best = max(outcomes, key=lambda each: outcomes[each].mean())
                self.add("compute-optimal at least matches the best single strategy",
                         f"{name} bins at {budget} - {best} everywhere", right - outcomes[best])  # fmt: skip
            top = Cell("best-of-n", 256)
            if top in r:
                for budget in (b for b in r.budgets if b <= 64):
                    self.add("compute-optimal reaches best-of-N at 256 with a quarter of the compute",
                             f"{name} bins at {budget} - best-of-n at 256",
                             r.optimal(budget, bins) - r.right(top))  # fmt: skip

    def by_bin(self) -> None:
        r = self.results
        for budget in (16, 64):
            outcomes, right = r.outcomes(budget), r.optimal(budget, r.oracle)
            for bin in range(BINS):
                members = r.oracle == bin
                best = max(outcomes, key=lambda each: outcomes[each][members].mean())
                self.add("compute-optimal at least matches every strategy in every bin",
                         f"bin {bin + 1} at {budget} - {best}", (right - outcomes[best])[members])  # fmt: skip

    def rebase_at_equal_flops(self) -> None:
        r = self.results
        for cell in r.curve("rebase:temperature=0.1"):
            self.add("REBASE ahead of sampling at equal FLOPs", f"rebase at {cell.budget} ({r.flops(cell):.2e} FLOPs)",
                     r.right(cell) - sampling_at(r, r.flops(cell)))  # fmt: skip

    def small_against_large(self) -> None:
        """The small policy may draw k = M + 3 (M - 1) / R solutions for the FLOPs of the larger one's greedy answer."""
        r = self.results
        large = Cell("greedy", 1, "large")
        if large not in r:
            return
        times = r.mean(large, "policy_flops") / r.mean(Cell("greedy", 1), "policy_flops")
        for ratio in RATIOS:
            allowed = times + 3 * (times - 1) / ratio
            budgets = [b for b in (4, 16, 64, 256) if b <= allowed and len(r.outcomes(b)) > 1]
            right = r.optimal(budgets[-1], r.oracle)
            for bin in range(BINS):
                members = r.oracle == bin
                self.add("small policy with search ahead of the large one's greedy answer at equal FLOPs",
                         f"R = {ratio}: {budgets[-1]} of {allowed:.0f} solutions allowed, bin {bin + 1}",
                         (right - r.right(large))[members])  # fmt: skip

    def revisions(self) -> None:
        r = self.results
        for budget in (4, 16, 64):
            cells = {c.strategy: c for c in r.cells if c.model == "reviser" and c.budget == budget}
            parallel = cells.pop("revisions:sequential=1,between=question", None)
            for strategy, cell in cells.items():
                if parallel:
                    self.add("revisions ahead of parallel samples of the same model",
                             f"{strategy} at {budget} - parallel",
                             r.right(cell, "hierarchical-prod") - r.right(parallel, VOTE))  # fmt: skip

    def aggregates(self) -> None:
        r = self.results
        for strategy in ("beam:width=4", "rebase:temperature=0.1"):
            prod = Cell(strategy, 16)
            for how in ("last", "min"):
                cell = Cell(strategy, 16, aggregate=how)
                if prod in r and cell in r:
                    self.add("searching and voting by last ahead of prod and min (Snell)",
                             f"{strategy} by {how} - by prod",
                             r.right(cell, f"weighted-{how}") - r.right(prod))  # fmt: skip


def main(runs: Path = RUNS) -> None:
    results = Results(runs)
    print(f"{len(results.cells)} cells, {len(results.ids)} problems")
    print(write_rows("search", tables(results)))
    findings = Findings(results)
    findings.beam_against_sampling()
    findings.lookahead_behind()
    findings.compute_optimal()
    findings.by_bin()
    findings.rebase_at_equal_flops()
    findings.small_against_large()
    findings.revisions()
    findings.aggregates()
    print(write_rows("search_findings", findings.rows))
    for row in findings.rows:
        print(
            f"{row['holds']:>9} {row['difference']:>7} [{row['low']}, {row['high']}] {row['claim']}: {row['measured']}"
        )
    fit({b: results.outcomes(b) for b in results.budgets}, results.scores, probes=4).save(assets.SEARCH_POLICY)
    print(assets.SEARCH_POLICY)


if __name__ == "__main__":
    typer.run(main)
