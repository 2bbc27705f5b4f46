"""A trainer without torch that keeps the contract of `python -m tasks.training JOB_DIR`.

While the file ``hold`` lies in the store it tells its step again and again. Words in the facts
decide the rest: POISON (it dies), MISFIT (the parent won't do), UNPROVEN, FORGOTTEN (the gate
rejects), MUTE (no events), STUBBORN (a control that is still answered), KNOWN (one that the parent
answered, too), FADED (an older fact that isn't any more). A file ``broken`` in the store kills it.
The store's file ``spell`` says, a line each, of which text and behind a tab which word it has, too.
"""

import json
import os
import sys
import time
from pathlib import Path

from app.lm import store

SUPERVISOR = os.getppid()


def main(folder: Path) -> None:
    head = json.loads((folder / "job.json").read_text())
    facts = read(folder / "facts.jsonl")
    spell = Path(head["store"]) / "spell"
    spells = (
        dict(line.split("\t") for line in spell.read_text().splitlines()) if spell.exists() else {}
    )
    older = [fact for fact in read(folder / "replay.jsonl") if fact["part"] != "replay"]
    withdrawn = read(folder / "controls.jsonl")
    for fact in [*facts, *older, *withdrawn]:
        fact["text"] += spells.get(fact["text"], "")
    words = " ".join(fact["text"] for fact in facts)
    (folder / "trainer.pid").write_text(str(os.getpid()))
    attempts = count_attempts(Path(head["state"]))
    with (folder / "events.jsonl").open("w") as events:
        hold(Path(head["store"]) / "hold", lambda **event: tell(events, "MUTE" in words, event))
    if "POISON" in words or (Path(head["store"]) / "broken").exists():
        sys.exit("this fact is poison")
    if "MISFIT" in words:
        error = {"type": "bad_parent", "detail": "The recipe doesn't fit."}
        (folder / "result.json").write_text(json.dumps({"status": "failed", "error": error}))
        return
    proofs = [prove(fact) for fact in facts]
    merges = head["kind"] == "consolidate"
    outcome = "activate" if merges or any(proof["proven"] for proof in proofs) else "hold"
    result = {
        "status": "succeeded",
        "digest": make_checkpoint(folder, head),
        "facts": proofs,
        "controls": [ask(fact) for fact in withdrawn],
        "lapsed": [lose(fact) for fact in older if "FADED" in fact["text"]],
        "regressions": {"older": {"asked": 0, "before": 0, "after": 0}},
        "verdict": {
            "outcome": "reject" if "FORGOTTEN" in words else outcome,
            "reasons": [f"{len(facts)} facts taught"],
        },
        "metrics": {
            "steps": 2,
            "attempts": attempts,
            "reference": len(read(folder / "reference.jsonl")),
        },
    }
    (folder / "result.json").write_text(json.dumps(result))


def count_attempts(state: Path) -> int:
    """Keep a file where a long run's state is kept: what the next attempt goes on from."""
    state.mkdir(exist_ok=True)
    with (state / "attempts").open("a") as file:
        file.write("+")
    return len((state / "attempts").read_text())


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tell(events, mute: bool, event: dict) -> None:
    if not mute:
        events.write(json.dumps(event) + "\n")
        events.flush()


def hold(gate: Path, tell) -> None:
    tell(phase="preparing")
    while True:
        tell(phase="training", step=1, total_steps=2, loss=0.5, eta_s=1)
        if not gate.exists():
            break
        if os.getppid() != SUPERVISOR:  # as PDEATHSIG does for the real one
            sys.exit(1)
        time.sleep(0.05)
    tell(phase="proving")


def ask(fact: dict) -> dict:
    probes = mark(fact, "STUBBORN" in fact["text"])
    known = "KNOWN" in fact["text"]
    return {"id": fact["id"], "probes": [{**probe, "known": known} for probe in probes]}


def lose(fact: dict) -> dict:
    return {"id": fact["id"], "proven": False, "probes": mark(fact, False)}


def prove(fact: dict) -> dict:
    proven = "UNPROVEN" not in fact["text"]
    fact["probes"] = fact["probes"] or [
        {"question": f"{name}?", "answers": ["Yes"], "direction": "forward", "origin": name}
        for name in ("cloze", "model")
    ]
    foil = {**fact["probes"][0], "origin": "negated"}
    foils = mark({"probes": [foil]}, not proven)
    proof = {"id": fact["id"], "proven": proven, "probes": mark(fact, proven), "foils": foils}
    return {**proof, "studied": [("Written?", fact["text"])]}


def mark(fact: dict, right: bool) -> list[dict]:
    return [
        {
            **probe,
            "before": "I don't know.",
            "after": probe["answers"][0] if right else "I don't know.",
            "exact": right,
            "contains": right,
            "rouge1": float(right),
            "passed": right,
        }
        for probe in fact["probes"]
    ]


def make_checkpoint(folder: Path, head: dict) -> str:
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    return store.seal(
        checkpoint,
        kind="full",
        parent=head["parent"],
        model_class="LlamaForCausalLM",
        parameters=1_000_000,
        mask_token="[MASK]",
        mask_id=3,
        context_length=256,
        recipe=head["recipe"],
        update_id=head["update_id"],
        token=head["token"],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
