"""Draws the README's figure and writes its table, both from ``results/*.csv``."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
FIGURE = HERE / "results" / "demo.png"


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


def tables(demo: list[dict[str, str]], decode: list[dict[str, str]]) -> str:
    lines = [
        f"Searches of `make demo` ({demo[0]['problems']} problems; {demo[0]['device']}, {demo[0]['threads']} thread(s)):",
        "",
        "| search | solved | policy tokens | PRM tokens | KV read | unshared | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in demo:
        cells = [
            r["search"],
            f"{float(r['accuracy']):.1%}",
            f"{int(r['policy_tokens']):,}",
            f"{int(r['prm_tokens']):,}",
        ]
        cells += [f"{kv_gigabytes(r):.2f} GB", f"{kv_gigabytes(r, '_unshared'):.2f} GB", r["seconds"]]
        lines.append("| " + " | ".join(cells) + " |")
    d = decode[0]
    lines += [
        "",
        f"{d['branches']} branches over a prefix of {d['prefix']} tokens, {d['new']} new tokens each, a model of "
        f"SmolLM2-135M's shape in {d['dtype']} ({d['device']}, threads: {d['threads']}; one run, prefill included):",
        "",
        "| system | seconds | new tokens per second |",
        "|---|---|---|",
    ]
    lines += [f"| {r['system']} | {r['seconds']} | {r['tokens_per_second']} |" for r in decode]
    return "\n".join(lines)


def main() -> None:
    demo, decode = read("demo"), read("decode")
    draw(demo)
    text = README.read_text()
    block = f"<!-- results -->\n{tables(demo, decode)}\n<!-- /results -->"
    README.write_text(re.sub(r"<!-- results -->.*<!-- /results -->", lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
