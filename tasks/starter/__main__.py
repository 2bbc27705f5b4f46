"""Command line: `python -m tasks.starter build` and `python -m tasks.starter evaluate DIR`."""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean

from app.recipe import Recipe
from tasks.starter.build import build
from tasks.starter.evaluate import measure, overlay, written


def main() -> None:
    """Parse the arguments and run one of the two commands."""
    parser = argparse.ArgumentParser(prog="python -m tasks.starter")
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("build", help="train a starter model")
    made.add_argument("--out", type=Path, help="default: what ships, for a causal model")
    made.add_argument("--work", type=Path, help="where the run's state is kept")
    made.add_argument("--architecture", choices=("causal", "diffusion"), default="causal")
    made.add_argument("--quick", action="store_true", help="a tiny model in under a minute")
    made.add_argument("--tokens", type=float)
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--begin", type=Path, help="a built model to go on from")
    made.add_argument("--resume", action="store_true")
    made.add_argument("--slice-s", type=float, help="stop after so many seconds, to be resumed")
    asked = commands.add_parser("evaluate", help="update on fresh facts and ask both ways")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--facts", type=int, nargs="*", default=[])
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--recipe", type=json.loads, default={}, help="fields of a recipe, as JSON")
    asked.add_argument("--paraphrases", choices=("none", "same", "permuted"), default="none")
    asked.add_argument("--written", type=Path, nargs="*", default=[], help="files of facts")
    asked.add_argument("--overlay", type=int, default=0, help="so many statements in context")
    options = parser.parse_args()
    if options.command == "build":
        if options.out is None and options.architecture != "causal":
            made.error("name a folder with --out: the causal model is what ships")
        keys = ("work", "architecture", "quick", "tokens", "device", "begin", "resume", "slice_s")
        build(options.out or Path("app/lm/starter"), **{key: getattr(options, key) for key in keys})
    else:
        evaluate(options)


def evaluate(options: argparse.Namespace) -> None:
    """Print one line per measurement: the mean over seeds, and the lowest and highest."""
    recipes = [Recipe(**{**options.recipe, "seed": seed}) for seed in range(1, options.seeds + 1)]
    for count in options.facts:
        rows = [measure(options.folder, count, r, options.paraphrases) for r in recipes]
        _print(f"{count} fresh facts, {recipes[0].objective}, {options.paraphrases}", rows)
    if options.overlay:
        shown = [overlay(options.folder, options.overlay, recipe.seed) for recipe in recipes]
        _print("overlay", shown)
    for file in options.written:
        _print(file.stem, [written(options.folder, file, recipe) for recipe in recipes])


def _print(title: str, rows: list[dict[str, float]]) -> None:
    table = {}
    for key in rows[0]:
        values = [row[key] for row in rows if key in row]
        table[key] = [round(number, 3) for number in (mean(values), min(values), max(values))]
    sys.stdout.write(json.dumps({"measured": title, "seeds": len(rows)} | table) + "\n")


if __name__ == "__main__":
    main()
