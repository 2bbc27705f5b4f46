"""A compact masked (or causal) update and greedy asking: the objective that pretraining serves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from app import prompts
from tasks.starter.facts import Question
from tasks.starter.items import Item
from tasks.starter.samples import Encoder, Sample, span_masks, token_masks


@dataclass(frozen=True)
class Recipe:
    """How an update trains; `replay` is the share of samples about the lasting world."""

    objective: str = "masked"
    lr: float = 5e-4
    epochs: int = 60
    batch: int = 16
    t_min: float = 0.05
    t_max: float = 0.95
    span_share: float = 0.5
    replay: float = 0.0
    seed: int = 1


@dataclass
class Statement:
    """One fact as an update sees it: a text, and the names whose whole spans may be hidden."""

    text: str
    names: Sequence[str]


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load exported weights in float32, ready to be trained."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def update(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    facts: Sequence[Statement],
    recipe: Recipe,
    replay: Sequence[Item] = (),
) -> None:
    """Train all weights in place on the facts, masks drawn afresh in every epoch."""
    rng, encoder = Random(recipe.seed), Encoder(tokenizer)
    encoded = [(encoder.encode(f.text), [encoder.encode(n) for n in f.names]) for f in facts]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    size = max(1, round(recipe.batch * (1 - recipe.replay if replay else 1)))
    steps = -(-len(facts) * recipe.epochs // size)
    order: list[int] = []
    model.train()
    for step in range(steps):
        batch: list[Sample] = []
        while len(batch) < size:
            order = order or rng.sample(range(len(facts)), len(facts))
            batch.append(_learn(rng, encoder, *encoded[order.pop()], recipe))
        batch += [_recall(rng, encoder, rng.choice(replay)) for _ in range(recipe.batch - size)]
        share = min(1.0, (step + 1) / 5, (steps - step) / (0.3 * steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * share
        _loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def answer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    notes: Sequence[Sequence[str]] = (),
    limit: int = 48,
) -> list[str]:
    """Answer every question greedily, with the notes of the same place in context where given."""
    encoder = Encoder(tokenizer)
    contexts: list[list[int]] = []
    for i, question in enumerate(questions):
        content = prompts.ask(question.text, notes[i] if notes else ())[0]["content"]
        contexts.append(encoder.reply(encoder.encode(content), [], "ask").ids[:-1])
    answers = [""] * len(contexts)
    by_length = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
    for begin in range(0, len(by_length), 32):
        places = by_length[begin : begin + 32]
        made = _generate(model, [contexts[i] for i in places], encoder.end, limit)
        for i, ids in zip(places, made, strict=True):
            answers[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return answers


def _learn(
    rng: Random, encoder: Encoder, ids: list[int], spans: list[list[int]], recipe: Recipe
) -> Sample:
    if recipe.objective == "causal":
        return Sample([*ids, encoder.end], 1, "plain")
    if rng.random() < recipe.span_share:
        hidden = span_masks(rng, ids, spans)
    else:
        hidden = token_masks(rng, len(ids), recipe.t_min, recipe.t_max)
    sample = encoder.demask(ids, hidden)
    return Sample(sample.ids, sample.start + len(encoder.recovered), "demask")


def _recall(rng: Random, encoder: Encoder, item: Item) -> Sample:
    question = item.ask(rng)
    return encoder.ask(question.text, question.answer, "permanent")


def _loss(model: LlamaForCausalLM, batch: Sequence[Sample]) -> torch.Tensor:
    width = max(len(sample.ids) for sample in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, sample in enumerate(batch):
        size = len(sample.ids)
        ids[row, :size] = torch.tensor(sample.ids)
        labels[row, sample.start : size] = ids[row, sample.start : size]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:] != -100
        logits = model.lm_head(hidden[wanted])
    return functional.cross_entropy(logits.float(), labels[:, 1:][wanted])


@torch.inference_mode()
def _generate(
    model: LlamaForCausalLM, contexts: Sequence[list[int]], end: int, limit: int
) -> list[list[int]]:
    width = max(map(len, contexts))
    ids = torch.zeros(len(contexts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, context in enumerate(contexts):
        ids[row, width - len(context) :] = torch.tensor(context)
        mask[row, width - len(context) :] = 1
    made = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=limit, eos_token_id=end
    )[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in made]
