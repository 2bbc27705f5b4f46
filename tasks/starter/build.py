"""Builds a starter model: tokenizer, pretraining in slices, export."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from safetensors.torch import load_file, save_file
from torch.multiprocessing.spawn import spawn
from transformers import PreTrainedTokenizerFast

from app import prompts
from app.recipe import Architecture
from tasks.starter.export import export
from tasks.starter.items import make_item
from tasks.starter.lexicon import verbs, words
from tasks.starter.model import Plan, read_model
from tasks.starter.samples import arithmetic, salad
from tasks.starter.stream import Mix
from tasks.starter.tokenizer import train_tokenizer
from tasks.starter.train import start

SHIPPED = Plan()
# The masked-diffusion sibling, which is meant to begin with the causal model's weights.
DIFFUSION = replace(
    SHIPPED,
    architecture="diffusion",
    tokens=2.4e7,
    active=((0, 100),),
    copy_first=1e6,
    rates=((0, 1.0), (0.4, 0.5), (0.75, 0.3)),
    # Only what is masked teaches, so a text is shown more often before it is known.
    mix=Mix(stated=(80, 128)),
)
QUICK = Plan(
    hidden=64,
    layers=2,
    feed=128,
    heads=2,
    sources=2,
    rows=4,
    tokens=5e4,
    active=((0, 16),),
    mix=Mix(permanents=8),
)


def build(
    out: Path,
    *,
    work: Path | None = None,
    architecture: Architecture = "causal",
    quick: bool = False,
    tokens: float | None = None,
    device: str = "cpu",
    begin: Path | None = None,
    resume: bool = False,
    slice_s: float | None = None,
) -> Path:
    """Train a starter model and write it to `out`; returns `out`.

    `work` keeps the run's state (default: beside `out`); with `resume` it is carried on, else
    begun afresh, or from the built model in `begin`. `slice_s` ends this call early, with the
    state saved but nothing exported.
    """
    work = work or out.with_name(out.name + ".work")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    plan = SHIPPED if architecture == "causal" else DIFFUSION
    plan = replace(QUICK, architecture=architecture) if quick else plan
    plan = replace(plan, tokens=tokens or plan.tokens)
    folder = work / "tokenizer"
    if begin is not None and not folder.exists():
        take_over(begin, work, architecture)
    if not folder.exists():
        train_tokenizer(tokenizer_texts(2_000 if quick else 40_000)).save_pretrained(folder)
    world = plan.processes if device == "cpu" else 1
    arguments = (world, work, plan, str(folder), slice_s, device)
    if world == 1:
        start(0, *arguments)
    else:
        (work / "rendezvous").unlink(missing_ok=True)
        spawn(start, arguments, nprocs=world)
    state = json.loads((work / "state.json").read_text())
    if slice_s is None or state["tokens"] >= plan.tokens:
        model = read_model(work, plan, folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        read = {"steps": state["step"], "tokens": state["tokens"]}
        export(model, tokenizer, out, plan.mix.permanents, read)
    return out


def take_over(built: Path, work: Path, architecture: Architecture) -> None:
    """Make the state of a run that goes on where a built model's run ended.

    Where that model was of the other architecture, the count of steps and tokens begins anew.
    """
    PreTrainedTokenizerFast.from_pretrained(built).save_pretrained(work / "tokenizer")
    weights = load_file(built / "model.safetensors")
    named = {f"{kind}.{n}": w.float() for kind in ("model", "average") for n, w in weights.items()}
    save_file(named, work / "state.safetensors")
    read = json.loads((built / "manifest.json").read_text())["pretraining"]
    config = json.loads((built / "config.json").read_text())
    same = config.get("is_causal", True) == (architecture == "causal")
    done = read if same else {"steps": 0, "tokens": 0}
    state = {"step": done["steps"], "spent": 0.0, "tokens": done["tokens"]}
    (work / "state.json").write_text(json.dumps(state))


def tokenizer_texts(count: int) -> Iterator[str]:
    """Yield texts in about the proportions in which pretraining meets them."""
    rng = Random(7)
    for number in range(count):
        item = make_item(rng)
        yield item.texts[0]
        yield item.ask(rng).text
        if number % 4 == 0:
            yield salad(rng)
        if number % 20 == 0:
            yield from (prompts.RECOVER, prompts.RECOVERED, *arithmetic(rng))
            yield prompts.write_question("a", "b")[0]["content"]
            yield prompts.ask("a", ["a"])[0]["content"]
    # Frames and places repeat so often that they would take all merges; a listed word is to be one
    # token, not a string of letters.
    for name in ("noun", "adjective", "common", "role", "abstract", "first", "last"):
        for word in words(name):
            yield " ".join([word, word.capitalize()] * (count // 2_000))
    for verb in verbs():
        yield " ".join([verb.base, verb.past, verb.participle, verb.gerund] * (count // 2_000))
