"""``almanac demo``: the whole path of a fact, against the running service, in numbered steps."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.answers import describe
from app.cli.console import Stop, connect, out, table
from app.cli.imports import read_jsonl, submit
from app.cli.progress import conclude, watch
from app.client import AlmanacClient, ApiError, Fact, Probe, Update
from app.scoring import score

FACTS = Path(__file__).parents[2] / "examples" / "facts.jsonl"
YOURS = "Petra Aldwin is the mayor of Dunsol."


def demo(
    ctx: typer.Context,
    facts: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="JSONL file of facts with probes.")
    ] = FACTS,
    fact: Annotated[str | None, typer.Option(help="Your own fact, instead of typing it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for a fact.")] = False,
) -> None:
    """Post facts, ask at once, learn them, compare versions, roll back, activate again."""
    with connect(ctx) as client:
        posted = post(client, [*read_jsonl(facts), {"text": fact or _choose_fact(yes)}])
        if not posted[0].probes:
            raise Stop(f"The first fact of {facts} has no probes: there is nothing to ask.")
        sample = posted[0].probes[0]
        _step(2, "Asked at once: answered from the facts themselves, given in context")
        show_answer(client, sample)
        before, after = learn(client, posted)
        probes = [probe for fact in posted for probe in find_probes(client, fact)]
        compare(client, probes, before, after)
        swap(client, probes, before, after)


def post(client: AlmanacClient, given: list[dict[str, Any]]) -> list[Fact]:
    """Submit the facts; Stop at the first that is refused."""
    facts = []
    for line, item in submit(client.add_facts, given):
        if item.fact is None:
            reason = (item.error or {}).get("detail", "no reason given")
            raise Stop(f"Fact {line} was refused: {reason}")
        facts.append(item.fact)
    known = sum(fact.deduplicated for fact in facts)
    _step(1, f"Posted {len(facts)} facts: {len(facts) - known} new, {known} known already")
    for fact in (facts[0], facts[-1]):
        out.print(f"   {fact.status}: {fact.text}")
    return facts


def learn(client: AlmanacClient, facts: Sequence[Fact]) -> tuple[int, int]:
    """Have the facts learned, unless they are; return the versions before and after."""
    update = find_update(client, facts)
    if update is None:
        learned = {fact.version for fact in facts if fact.version is not None}
        if not learned:
            raise Stop(f"Nothing to learn: the facts are {facts[0].status}.")
        _step(3, f"Nothing to learn: version {max(learned)} knows these facts already")
        return client.get_checkpoint(min(learned)).parent or 0, max(learned)
    _step(3, f"Learning {len(update.fact_ids)} facts ({update.id})")
    done = watch(client, update.id)
    if done.version is None or done.outcome == "rejected":
        raise Stop(conclude(done))
    out.print(f"   {conclude(done)}")
    return client.get_checkpoint(done.version).parent or 0, done.version


def find_update(client: AlmanacClient, facts: Sequence[Fact]) -> Update | None:
    """Start an update of the waiting facts, or find the one that has them."""
    waiting = [fact.id for fact in facts if fact.status in ("pending", "lapsed")]
    try:
        if waiting:
            return client.start_update(fact_ids=waiting)
    except ApiError as error:
        if error.status != 409:  # the worker was first
            raise
    if waiting or any(fact.status == "training" for fact in facts):
        return next((one for one in client.list_updates() if not one.is_finished), None)
    return None


def find_probes(client: AlmanacClient, fact: Fact) -> Sequence[Probe]:
    """Return the given probes, or where there are none those that the trainer wrote."""
    if fact.probes:
        return fact.probes
    proofs = client.get_proofs(fact.id)
    newest = max((proof.version for proof in proofs), default=None)
    written = [proof for proof in proofs if proof.origin in ("cloze", "model")]
    return [proof for proof in written if proof.version == newest]


def compare(client: AlmanacClient, probes: Sequence[Probe], before: int, after: int) -> None:
    """Ask every question of both versions and print the answers and the counts."""
    _step(4, f"Asked of the weights alone: version {before}, and version {after}")
    old, new = ask_all(client, probes, before), ask_all(client, probes, after)
    shown = table("", "QUESTION", f"VERSION {before}", f"VERSION {after}")
    for probe, *answers in zip(probes, old, new, strict=True):
        marks = [f"{'✓' if is_right(text, probe) else '✗'} {text}" for text in answers]
        shown.add_row("→" if probe.direction == "forward" else "←", probe.question, *marks)
    out.print(shown)
    out.print(f"   version {before}: {count(probes, old)}")
    out.print(f"   version {after}: {count(probes, new)}")


def swap(client: AlmanacClient, probes: Sequence[Probe], before: int, after: int) -> None:
    """Pin both versions, roll back and activate again, asking each time."""
    probe = probes[0]
    _step(5, "Pinned side by side")
    show_answer(client, probe, before)
    show_answer(client, probe, after)
    if not client.get_checkpoint(after).is_current:
        client.activate(after, "demo: a person activates what the gate held")
        out.print(f"   The gate held version {after} for a person to decide; activated by hand.")
    client.rollback("demo: show a rollback", to=before)
    _step(6, f"Rolled back: version {before} is current")
    show_answer(client, probe)
    gone = ask_all(client, probes, None)
    out.print(f"   all questions again, weights alone: {count(probes, gone)}")
    client.activate(after, "demo: show an activation")
    _step(7, f"Activated again: version {after} is current")
    show_answer(client, probe)


def show_answer(client: AlmanacClient, probe: Probe, version: int | None = None) -> None:
    """Ask one question and print the answer with its origin."""
    answer = client.ask(probe.question, version=version)
    out.print(f"   {probe.question}  {answer.answer}  ({describe(answer)})")


def ask_all(client: AlmanacClient, probes: Sequence[Probe], version: int | None) -> list[str]:
    """Ask every question of one version's weights, several at a time."""
    with ThreadPoolExecutor(8) as pool:
        return list(
            pool.map(
                lambda probe: client.ask(probe.question, version=version, overlay=False).answer,
                probes,
            )
        )


def is_right(answer: str, probe: Probe) -> bool:
    """Say whether the answer is right, by the rule of the proofs."""
    return score(answer, probe.answers).passed


def count(probes: Sequence[Probe], answers: Sequence[str]) -> str:
    """Count the right answers in each direction."""
    pairs = list(zip(probes, answers, strict=True))
    parts = []
    for direction in ("forward", "backward"):
        right = [is_right(text, probe) for probe, text in pairs if probe.direction == direction]
        parts.append(f"{direction}s {sum(right)} of {len(right)}")
    return ", ".join(parts)


def _choose_fact(yes: bool) -> str:
    if yes or not sys.stdin.isatty():
        return YOURS
    out.print("Type a fact of your own, or press Enter for this one:")
    return str(typer.prompt("fact", default=YOURS))


def _step(number: int, text: str) -> None:
    out.print(f"\n{number}. {text}", style="bold")
