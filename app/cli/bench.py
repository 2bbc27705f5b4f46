"""``almanac bench``: experiments on the model of your choice; imported from tasks only when run."""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.console import Stop, out
from app.lm.memory import bound_cache, reuse_memory

app = typer.Typer(no_args_is_help=True, help="Compare ways to teach a model.")

Out = Annotated[Path, typer.Option(help="Folder of results; an interrupted run goes on there.")]
Model = Annotated[str, typer.Option(help="starter, a folder, or a hub id.")]
Revision = Annotated[str, typer.Option(help="Commit hash that pins a hub model.")]
Quick = Annotated[bool, typer.Option("--quick", help="A toy of every step, in a minute.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds of each arm that is reported.")]
Fields = Annotated[str, typer.Option(help="Fields of the recipe that differ, as JSON.")]
Facts = Annotated[
    Path | None, typer.Option(exists=True, help="JSONL, as POST /v1/facts; else invented.")
]
Reference = Annotated[
    Path | None, typer.Option(exists=True, help="JSONL of what must not be forgotten.")
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]


@app.command()
def knowledge(
    folder: Out = Path("bench-knowledge"),
    model: Model = "starter",
    revision: Revision = "",
    sibling: Annotated[
        str, typer.Option(help="Masked-diffusion model that `diffusion` teaches.")
    ] = "",
    facts: Facts = None,
    invented: Annotated[int, typer.Option(min=3, help="How many to invent.")] = 60,
    reference: Reference = None,
    objectives: Annotated[str, typer.Option(help="With commas.")] = "masked,tokens,causal",
    paraphrases: Annotated[str, typer.Option(help="With commas.")] = "none,same,permuted",
    methods: Annotated[str, typer.Option(help="With commas.")] = "full,lora",
    seeds: Seeds = 3,
    exposures: Annotated[int, typer.Option(min=1, help="Most showings of each fact.")] = 100,
    rates: Annotated[
        str, typer.Option(help="Learning rates to choose from, as JSON by method.")
    ] = "{}",
    recipe: Fields = "{}",
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Objectives x paraphrases x methods: what is learned, at what price, and what is forgotten."""
    given = locals()
    for name in ("objectives", "paraphrases", "methods"):
        given[name] = _words(given[name])
    given["rates"] = _object("rates", rates)
    _run("knowledge", given)


@app.command()
def sft(
    folder: Out = Path("bench-sft"),
    model: Model = "starter",
    revision: Revision = "",
    examples: Annotated[
        Path | None, typer.Option(exists=True, help="JSONL, as POST /v1/examples/batch.")
    ] = None,
    taught: Annotated[int, typer.Option(min=2, help="Problems that are taught.")] = 400,
    asked: Annotated[int, typer.Option(min=2, help="Others that are asked.")] = 200,
    epochs: Annotated[int, typer.Option(min=1, help="Showings of each problem.")] = 10,
    seeds: Seeds = 3,
    recipe: Fields = "{}",
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Plain against demasking SFT on worked word problems, at equal steps and at equal FLOPs."""
    _run("sft", locals())


@app.command()
def sequence(
    folder: Out = Path("bench-sequence"),
    model: Model = "starter",
    revision: Revision = "",
    facts: Facts = None,
    reference: Reference = None,
    updates: Annotated[int, typer.Option(min=1, help="Updates, one on the other.")] = 20,
    size: Annotated[int, typer.Option(min=1, help="Facts of each.")] = 20,
    arms: Annotated[
        str, typer.Option(help="With commas; `fresh adapters`, `retrained` only by name.")
    ] = "all defences,not again,no replay,no reference,no base,no KL,no protection,none",
    seeds: Seeds = 3,
    recipe: Fields = "{}",
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """Updates one on the other, with every defence against forgetting and with each left out."""
    given = locals()
    given["arms"] = _words(given["arms"])
    _run("sequence", given)


@app.command()
def retraction(
    folder: Out = Path("bench-retraction"),
    model: Model = "starter",
    revision: Revision = "",
    facts: Facts = None,
    reference: Reference = None,
    taught: Annotated[int, typer.Option(min=2, help="Facts that are taught.")] = 40,
    retracted: Annotated[int, typer.Option(min=1, help="Of these, retracted.")] = 10,
    control: Annotated[int, typer.Option(min=1, help="Others, never taught.")] = 20,
    seeds: Seeds = 3,
    recipe: Fields = "{}",
    threads: Threads = 2,
    quick: Quick = False,
) -> None:
    """What a rebuild without retracted facts still answers, beside facts never taught."""
    _run("retraction", locals())


def _run(name: str, given: dict[str, Any]) -> None:
    """Run the experiment of this name with what a command was given; print its report."""
    bound_cache()
    reuse_memory()
    experiment = import_module(f"tasks.bench.{name}")
    folder, quick = given.pop("folder"), given.pop("quick")
    given["recipe"] = _object("recipe", given["recipe"])
    plan = experiment.plan_of({**given, **(experiment.QUICK if quick else {})})
    files = experiment.run(plan, folder)
    report = files[0].read_text(encoding="utf-8")
    for line in [*report.splitlines(), *map(str, files)]:
        out.print(line, soft_wrap=True)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise Stop(f"--{option} is no JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise Stop(f"--{option} is no JSON object.")
    return fields
