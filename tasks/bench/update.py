"""Measure real updates: ``python -m tasks.bench.update --facts FILE --store DIR --parent DIGEST``.

Each update is one ``python -m tasks.training`` process over a job directory, as the worker starts
it. With ``--updates K`` the facts are learned in K updates, each on the checkpoint of the one
before; earlier facts are then replayed and asked again. Prints one line an update.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.lm import store
from app.recipe import Recipe

MOST_OLDER = 128
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Bench:
    """What stays the same over all runs."""

    objects: Path
    reference: Rows
    threads: int
    recipe: dict[str, Any]

    def sequence(self, base: str, facts: Rows, updates: int, seed: int) -> None:
        """Learn the facts in so many updates, one on the other, and print each."""
        parent = base
        size = -(-len(facts) // updates)
        for number in range(updates):
            older = facts[: number * size]
            taught = facts[number * size : (number + 1) * size]
            folder = store.staging_folder(self.objects, f"bench.{seed}.{number}")
            try:
                self._write_job(folder, base, parent, taught, older[-MOST_OLDER:], seed)
                started = time.monotonic()
                result = self._train(folder)
                report(seed, number, result, time.monotonic() - started)
                parent = store.publish(self.objects, folder / "checkpoint")
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _write_job(
        self, folder: Path, base: str, parent: str, facts: Rows, older: Rows, seed: int
    ) -> None:
        head = {
            "update_id": f"bench.{seed}",
            "token": 1,
            "store": str(self.objects),
            "parent": parent,
            "base": base,
            "recipe": {**self.recipe, "seed": seed},
            "threads": self.threads,
        }
        (folder / "job.json").write_text(json.dumps(head))
        replay = [{**fact, "part": part} for part in ("replay", "exam") for fact in older]
        files = {"facts": facts, "replay": replay, "reference": self.reference}
        for name, rows in files.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(lines)

    def _train(self, folder: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "tasks.training", str(folder)]
        subprocess.run(command, check=True)
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        if result["status"] != "succeeded":
            raise SystemExit(f"the update failed: {result['error']}")
        return result


def read_facts(path: Path) -> Rows:
    """Read facts in the shape of ``POST /v1/facts`` as a job's rows."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {"id": f"fact_{number}", "text": row["text"], "probes": row.get("probes", [])}
        for number, row in enumerate(rows)
    ]


def report(seed: int, number: int, result: dict[str, Any], seconds: float) -> None:
    """Print one update's accuracies before and after, what was lost, time and memory."""
    probes = [probe for fact in result["facts"] for probe in fact["probes"]]
    parts = [f"seed {seed} update {number}:"]
    for direction in ("forward", "backward"):
        asked = [probe for probe in probes if probe["direction"] == direction]
        parts.append(f"{direction} {sum(p['passed'] for p in asked)}/{len(asked)}")
    proven = sum(fact["proven"] for fact in result["facts"])
    parts.append(f"proven {proven}/{len(result['facts'])}")
    for name, lost in result["regressions"].items():
        kept = f"{name} {lost['before']}->{lost['after']}/{lost['asked']}"
        parts.append(f"{kept} flipped {lost['flipped']}")
    metrics = result["metrics"]
    parts.append(
        f"{result['verdict']['outcome']} {metrics['epochs']} epochs {seconds:.0f} s"
        f" (training {metrics['training_s']:.0f} s) {metrics['peak_rss_mb']} MB"
    )
    sys.stdout.write(" ".join(parts) + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tasks.bench.update", description=__doc__)
    parser.add_argument("--facts", type=Path, required=True, help="JSONL, as POST /v1/facts")
    parser.add_argument("--store", type=Path, required=True, help="checkpoint store")
    parser.add_argument("--parent", required=True, help="digest to start from")
    parser.add_argument("--reference", type=Path, help="JSONL, as in a job directory")
    parser.add_argument("--recipe", type=json.loads, default={}, help="fields that differ, as JSON")
    parser.add_argument("--count", type=int, help="how many of the facts")
    parser.add_argument("--updates", type=int, default=1, help="learn them in so many updates")
    parser.add_argument("--seeds", type=int, default=1, help="repeat with seeds 0, 1, ...")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    Recipe(**given.recipe)  # a wrong field is told before anything runs
    reference = given.reference.read_text().splitlines() if given.reference else []
    rows = [json.loads(line) for line in reference]
    bench = Bench(given.store, rows, given.threads, given.recipe)
    for seed in range(given.seeds):
        facts = read_facts(given.facts)[: given.count]
        bench.sequence(given.parent, facts, given.updates, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
