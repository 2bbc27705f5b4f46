"""The shipped starter really learns: facts that it never saw, asked forwards and backwards."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.lm import base
from tasks.training.job import Events, read_job
from tasks.training.run import run

FACTS = Path(__file__).parents[2] / "examples" / "facts.jsonl"
REFERENCE = base.STARTER / "reference.jsonl"
# Of 8; low, because the starter is weak (docs/starter.md). Seeds 0-2 gave 4, 5, 6 forwards and
# 2, 3, 3 backwards with replay .4 and KL 1; with today's defaults this test ran seed 0 alone.
LEAST = {"forward": 2, "backward": 1}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"there is no starter model: {base.STARTER}")
def test_the_starter_learns_facts_forwards_and_backwards(tmp_path: Path) -> None:
    store = tmp_path / "store"
    parent = base.import_base(store, "starter")
    facts = [
        {"id": f"fact_{number}", "text": row["text"], "probes": row["probes"]}
        for number, row in enumerate(rows(FACTS)[:8])
    ]
    reference = rows(REFERENCE)
    parts = {part: [row for row in reference if row["part"] == part] for part in ("replay", "exam")}
    job = {
        "job.json": [{"update_id": "u", "token": 1, "store": str(store), "parent": parent}],
        "facts.jsonl": facts,
        "replay.jsonl": [],
        "reference.jsonl": [*parts["replay"], *parts["exam"][:40]],
    }
    job["job.json"][0] |= {"recipe": {}, "threads": 2}
    for name, lines in job.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name).write_text(text)

    events = Events(tmp_path)
    result = run(read_job(tmp_path), events)
    events.close()

    for direction in ("forward", "backward"):
        probes = [p for f in result["facts"] for p in f["probes"] if p["direction"] == direction]
        known = sum(p["before"].strip(". ") in p["answers"] for p in probes)
        learned = sum(p["passed"] for p in probes)
        assert known == 0, "the starter never saw these names"
        assert learned >= LEAST[direction], f"{direction}: {learned} of {len(probes)}"
    assert result["metrics"]["peak_rss_mb"] < 1536
