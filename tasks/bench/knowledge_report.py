"""The knowledge experiment's tables and plot, from finished cells alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from app.cli.console import errors
from tasks.bench.experiment import Cell, interval, markdown, shown, write_csv

DIRECTIONS = ("forward", "backward")
LEARNED = 0.9
HEAD = """# Knowledge experiment

Model `{model}`; {tuned} facts to choose each arm's learning rate and epochs, {reported} others to
report on, {seeds} seeds. Answers are generated greedily. Right: the answer contains an accepted
one, normalised; recall: ROUGE-1. Reversed: questions, forward or backward, whose answer stands in
the statement before what they tell about it. Means with 95 % intervals over seeds and facts. An arm
is objective/paraphrases/method; `tokens` is masking of single tokens as in the paper, `masked` the
recipe's own; `random` (a prompt of random tokens) and `copy` (nothing masked) are controls.

"""
SPENT = """
Until {share:.0%} of the questions are right, all directions asked together: FLOPs (4 a weight and
token, 2 more for a trained weight, the output layer's at targets alone; no padding) and seconds of
training, the mean of all seeds; empty where a seed never got there. Forgetting: of {asked}
reference questions, right ones lost and answers in other words, and KL to the parent in nats a
token.

"""


def write_report(
    out: Path, settings: Cell, results: dict[str, list[Cell]], tuned: int, reported: int
) -> list[Path]:
    """Write Markdown, CSV and, where matplotlib is installed, learning curves."""
    rows = [_row(name, cells) for name, cells in results.items()]
    known = [
        {
            "arm": row["arm"],
            "rate": f"{row['lr']:g}",
            "epochs": str(row["epochs"]),
            **{f"{way}, right": shown(row[f"{way}_passed"]) for way in (*DIRECTIONS, "reversed")},
            **{f"{way}, recall": shown(row[f"{way}_rouge1"]) for way in DIRECTIONS},
        }
        for row in rows
    ]
    spent = [
        {
            "arm": row["arm"],
            "FLOPs to 90 %": "" if row["flops_to_90"] is None else f"{row['flops_to_90']:.1e}",
            "seconds to 90 %": "" if row["s_to_90"] is None else f"{row['s_to_90']:.0f}",
            "lost": f"{row['lost']:.1%}",
            "otherwise": f"{row['flipped']:.1%}",
            "KL": "" if row["kl"] is None else f"{row['kl']:.3f}",
        }
        for row in rows
    ]
    counts = {"tuned": tuned, "reported": reported, "seeds": settings["seeds"]}
    text = HEAD.format(model=str(settings["model"])[:12], **counts) + markdown(known)
    asked = next(iter(results.values()))[0]["asked"]
    text += SPENT.format(share=LEARNED, asked=asked) + markdown(spent)
    text += f"\nSettings: `{json.dumps(settings)}`\n"
    files = [out / "knowledge.md", out / "knowledge.csv"]
    files[0].write_text(text, encoding="utf-8")
    write_csv(files[1], [_flat(row) for row in rows])
    return [*files, *_plot(out / "curves.png", results)]


def _row(name: str, cells: Sequence[Cell]) -> Cell:
    row: Cell = {"arm": name, "lr": cells[0]["lr"], "epochs": cells[0]["epochs"]}
    for way in (*DIRECTIONS, "reversed"):
        for measure in ("passed", "rouge1"):
            marks = [cell["marks"][way][measure] for cell in cells]
            row[f"{way}_{measure}"] = interval(marks) if marks[0] else None
    reached = [_reached(cell) for cell in cells]
    for at, spent in (("flops", "flops_to_90"), ("seconds", "s_to_90")):
        points = [point[at] for point in reached if point]
        row[spent] = mean(points) if len(points) == len(cells) else None
    row["lost"] = mean(cell["lost"] / max(1, cell["before"]) for cell in cells)
    row["flipped"] = mean(cell["flipped"] / max(1, cell["asked"]) for cell in cells)
    distances = [cell["kl"] for cell in cells if cell["kl"] is not None]
    row["kl"] = mean(distances) if distances else None
    return row


def _reached(cell: Cell) -> Cell | None:
    asked = [way for way in DIRECTIONS if cell["marks"][way]["passed"]]
    points = (p for p in cell["curve"] if mean(p[way] for way in asked) >= LEARNED)
    return next(points, None)


def _flat(row: Cell) -> Cell:
    flat: Cell = {}
    for name, value in row.items():
        if isinstance(value, tuple):
            flat |= dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True))
        else:
            flat[name] = value
    return flat


def _plot(path: Path, results: dict[str, list[Cell]]) -> list[Path]:
    """Draw each arm's mean curve over FLOPs with its 95 % interval, a panel a direction."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        errors.print("No curves were drawn: install almanac[bench] for matplotlib.")
        return []
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    for way, panel in zip(DIRECTIONS, panels, strict=True):
        for name, cells in results.items():
            curves = [cell["curve"] for cell in cells]
            size = min(map(len, curves))
            at = [mean(curve[n]["flops"] for curve in curves) for n in range(size)]
            found = [interval([[curve[n][way]] for curve in curves]) for n in range(size)]
            means, low, high = zip(*found, strict=True) if found else ((), (), ())
            (line,) = panel.plot(at, means, label=name, marker=".")
            panel.fill_between(at, low, high, color=line.get_color(), alpha=0.15)
        panel.set(title=f"{way} questions", xlabel="training FLOPs", ylim=(-0.02, 1.02))
        if any(line.get_xdata()[0:1] for line in panel.lines if len(line.get_xdata())):
            panel.set_xscale("log")
    panels[0].set_ylabel("right answers")
    panels[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    return [path]
