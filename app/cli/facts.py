"""``almanac facts``."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from app.cli.console import Stop, connect, errors, out, table, when
from app.client import AlmanacClient, Fact

app = typer.Typer(no_args_is_help=True, help="Submit, import, list, show and delete facts.")
BATCH_FACTS, BATCH_BYTES = 500, 4_000_000


@app.command()
def add(
    ctx: typer.Context,
    text: str,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    fact_key: Annotated[str | None, typer.Option(help="Names what the fact is about.")] = None,
) -> None:
    """Submit one fact; it is answerable at once."""
    given = {"text": text, "source": source, "key": fact_key}
    with connect(ctx) as client:
        fact = client.add_fact({name: value for name, value in given.items() if value is not None})
    known = " (known already)" if fact.deduplicated else ""
    out.print(f"{fact.id} {fact.status}{known}")


@app.command("import")
def import_file(
    ctx: typer.Context, file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
) -> None:
    """Submit a JSONL file: one fact a line, in the shape of POST /v1/facts."""
    facts = read_jsonl(file)
    new = known = 0
    refused: list[str] = []
    # Whatever was sent before is known already, so an interrupted import is just run again.
    with (
        connect(ctx) as client,
        Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar,
    ):
        task = bar.add_task("facts", total=len(facts))
        for line, item in submit(client, facts):
            bar.advance(task)
            if isinstance(item, Fact):
                known, new = known + item.deduplicated, new + (not item.deduplicated)
            else:
                refused.append(f"{file}, line {line}: {item}")
    out.print(f"{new} new, {known} known already, {len(refused)} refused.")
    for reason in refused:
        errors.print(reason)
    if refused:
        raise typer.Exit(1)


@app.command("list")
def list_facts(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(help="Only facts that stand so.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most facts to list.")] = 20,
) -> None:
    """List facts, newest first."""
    shown = table("ID", "STATUS", "VERSION", "TEXT")
    with connect(ctx) as client:
        for fact in islice(client.list_facts(status), limit):
            version = "" if fact.version is None else str(fact.version)
            shown.add_row(fact.id, fact.status, version, fact.text)
    out.print(shown)


@app.command()
def show(ctx: typer.Context, fact_id: str) -> None:
    """Show one fact and what each version answered to its probes."""
    with connect(ctx) as client:
        fact, proofs = client.get_fact(fact_id), client.get_proofs(fact_id)
    out.print(fact.text)
    version = "" if fact.version is None else f", version {fact.version}"
    out.print(f"{fact.status}{version}, submitted {when(fact.created_at)}")
    if fact.error:
        out.print(fact.error)
    if proofs:
        shown = table("VERSION", "DIRECTION", "QUESTION", "BEFORE", "AFTER", "PASSED")
        for proof in proofs:
            passed = "yes" if proof.passed else "no"
            cells = (proof.direction, proof.question, proof.before, proof.after, passed)
            shown.add_row(str(proof.version), *cells)
        out.print(shown)


@app.command()
def delete(ctx: typer.Context, fact_id: str) -> None:
    """Retract a fact."""
    with connect(ctx) as client:
        client.delete_fact(fact_id)
    out.print(f"{fact_id} retracted.")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read facts, or raise Stop naming the first line that isn't one."""
    facts = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise Stop(f"{path} isn't UTF-8 text.") from None
    for number, line in enumerate(lines, start=1):
        try:
            fact = json.loads(line)
        except ValueError as error:
            raise Stop(f"{path}, line {number}: not JSON ({error}). Nothing was sent.") from None
        if not isinstance(fact, dict):
            raise Stop(f"{path}, line {number}: not a JSON object. Nothing was sent.")
        facts.append(fact)
    return facts


def submit(client: AlmanacClient, facts: list[dict[str, Any]]) -> Iterator[tuple[int, Fact | str]]:
    """Submit in batches; yield each line's number with its fact, or with why it was refused."""
    start = 0
    while start < len(facts):
        size, end = 0, start
        while end < len(facts) and end - start < BATCH_FACTS and size < BATCH_BYTES:
            size += len(json.dumps(facts[end]))
            end += 1
        for item in client.add_facts(facts[start:end]):
            reason = (item.error or {}).get("detail", "refused")
            yield start + item.index + 1, item.fact or str(reason)
        start = end
