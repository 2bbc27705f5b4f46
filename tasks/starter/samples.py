"""Training samples: token ids with a mark on the positions that carry loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from app import prompts
from tasks.starter import names
from tasks.starter.items import Item
from tasks.starter.lexicon import one
from tasks.starter.tokenizer import END, MASK


@dataclass(frozen=True)
class Sample:
    """One document: ids, the places that predict something, what each predicts, and its task."""

    ids: list[int]
    at: Sequence[int]
    labels: list[int]
    task: str


def following(ids: list[int], start: int, task: str) -> Sample:
    """Make a sample of which every token from `start` on is predicted by the one before it."""
    return Sample(ids, range(start - 1, len(ids) - 1), ids[start:], task)


class Encoder:
    """Turns texts and chats into samples, each content encoded on its own as when serving."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.core: Tokenizer = tokenizer.backend_tokenizer
        self.core.encode_special_tokens = True
        self.end, self.mask = self._id(END), self._id(MASK)
        self.user, self.assistant = self._id("<|user|>"), self._id("<|assistant|>")
        self.recover = self.encode(prompts.RECOVER)
        self.recovered = self.encode(prompts.RECOVERED)
        self.infilling = self.encode(prompts.INFILL)

    def _id(self, token: str) -> int:
        found = self.core.token_to_id(token)
        if found is None:
            raise ValueError(f"The tokenizer lacks {token}.")
        return int(found)

    def encode(self, text: str) -> list[int]:
        """Return the ids of one content; text that spells a special token stays text."""
        return list(self.core.encode(text, add_special_tokens=False).ids)

    def any_tokens(self, rng: Random) -> list[int]:
        """Draw a run of unrelated ids, which only copying can tell."""
        first = self.assistant + 1  # the special ones come before all others
        return [rng.randrange(first, self.core.get_vocab_size()) for _ in range(rng.randint(6, 30))]

    def word_starts(self, ids: list[int]) -> list[int]:
        """Return where words begin, and at last where the last word ends."""
        tokens = [str(self.core.id_to_token(i)) for i in ids]
        starts = [at for at, token in enumerate(tokens) if token.startswith("Ġ")]
        letters = [at for at, token in enumerate(tokens) if token[-1].isalnum()]
        return [*starts, (letters[-1] if letters else len(ids) - 1) + 1]

    def spots(self, ids: list[int], span: str) -> list[range]:
        """Return every place of a span among a text's ids, as it is or opening a sentence."""
        found: list[range] = []
        for form in {span, span[:1].upper() + span[1:]}:
            sought = self.encode(form)
            begins = range(len(ids) - len(sought) + 1)
            found += [
                range(at, at + len(sought)) for at in begins if ids[at : at + len(sought)] == sought
            ]
        return sorted(found, key=lambda spot: spot.start)

    def plain(self, text: str) -> Sample:
        """Make a document without roles; every token is a target."""
        return following([*self.encode(text), self.end], 1, "plain")

    def reply(self, user: list[int], answer: list[int], task: str) -> Sample:
        """Make a chat of two turns; the answer and its end token are targets."""
        head = self.head(user)
        return following([*head, *answer, self.end], len(head), task)

    def head(self, user: list[int]) -> list[int]:
        """Return a chat's first turn, up to where the answer begins."""
        return [self.user, *user, self.end, self.assistant]

    def ask(self, question: str, answer: str, task: str, notes: list[str] | None = None) -> Sample:
        """Make a question with its answer, with notes in context where given."""
        content = prompts.ask(question, notes or ())[0]["content"]
        return self.reply(self.encode(content), self.encode(answer), task)

    def write(self, text: str, question: str, answer: str) -> Sample:
        """Make a request to write the question that a passage answers."""
        content = prompts.write_question(text, answer)[0]["content"]
        return self.reply(self.encode(content), self.encode(question), "write")

    def copy(self, ids: list[int], hidden: list[bool]) -> Sample:
        """Make a chat whose reply repeats what the prompt shows, all or nearly all of it."""
        return replace(self.demask(ids, hidden), task="copy")

    def demask(self, ids: list[int], hidden: list[bool]) -> Sample:
        """Make a demasking chat from a text's ids and a mark on the ids to hide."""
        seen = self.hide(ids, hidden)
        return self.reply([*seen, *self.recover], [*self.recovered, *ids], "demask")

    def hide(self, ids: list[int], hidden: list[bool]) -> list[int]:
        """Put the mask in place of hidden ids."""
        return [self.mask if hide else i for i, hide in zip(ids, hidden, strict=True)]

    def infill(self, ids: list[int], gap: range, cut: range = range(0)) -> Sample:
        """Make an infilling chat: one mask stands for a run of ids, the reply is that run alone.

        What is cut is neither shown nor asked for.
        """
        at = [i for i in range(len(ids)) if i not in cut and (i not in gap or i == gap.start)]
        seen = [self.mask if i == gap.start else ids[i] for i in at]
        return self.reply([*seen, *self.infilling], ids[gap.start : gap.stop], "infill")


def token_masks(rng: Random, size: int, low: float = 0.05, high: float = 0.95) -> list[bool]:
    """Hide each token with one probability t from U(low, high)."""
    t = rng.uniform(low, high)
    return [rng.random() < t for _ in range(size)]


def window_masks(rng: Random, size: int) -> list[bool]:
    """Hide one window of a fifth to nearly all of the tokens."""
    width = max(1, round(size * rng.uniform(0.2, 0.95)))
    begin = rng.randint(0, size - width)
    return [begin <= i < begin + width for i in range(size)]


def span_masks(rng: Random, size: int, spots: list[list[range]]) -> list[bool]:
    """Hide one name wherever it stands, or everything but one name, plus a few tokens."""
    if not spots:
        return window_masks(rng, size)
    chosen = rng.choice(spots)
    inside = [any(at in spot for spot in chosen) for at in range(size)]
    noise = rng.choice((0.0, 0.0, rng.uniform(0, 0.4)))
    if rng.random() < 0.6:
        return [hide or rng.random() < noise for hide in inside]
    return [not hide and rng.random() >= noise / 2 for hide in inside]


def masks(rng: Random, size: int, spots: list[list[range]]) -> list[bool]:
    """Draw one of the three ways to hide; at least one token is hidden."""
    draw = rng.random()
    if draw < 0.45:
        hidden = token_masks(rng, size)
    elif draw < 0.6:
        hidden = window_masks(rng, size)
    else:
        hidden = span_masks(rng, size, spots)
    if not any(hidden):
        hidden[rng.randrange(len(hidden))] = True
    return hidden


def gap(rng: Random, spots: list[list[range]], starts: list[int]) -> range:
    """Choose what an infilling sample leaves out: a name, what stands beside it, or some words.

    `spots` are the places of each name, `starts` those where words begin, the text's end with them.
    """
    draw = rng.random()
    name = rng.choice(spots)[0] if spots and draw < 0.75 else None
    if name is None:
        size = rng.randint(1, max(1, len(starts) - 2))
        first = rng.randint(0, len(starts) - 1 - size)
        return range(starts[first], starts[first + size])
    before, after = range(name.start), range(name.stop, starts[-1])
    if draw < 0.5 or not (before or after):
        return name
    # The longer side more often: it is the one with something to say.
    return rng.choices((before, after), (len(before), len(after)))[0]


def full_sentence(rng: Random, item: Item) -> tuple[str, str]:
    """Return a question that asks for a sentence, and the sentence."""
    question = item.ask(rng)
    lead = rng.choice(("In a full sentence: {}", "{} Answer in a full sentence."))
    return lead.format(question.text), item.texts[0]


def arithmetic(rng: Random) -> tuple[str, str]:
    """Compose a word problem of one or two steps and its worked solution."""
    name, thing, a, b, c = (
        names.person(rng), one(rng, "noun") + "s", rng.randint(2, 60), rng.randint(2, 40),
        rng.randint(2, 9),
    )  # fmt: skip
    if rng.random() < 0.35:
        return f"{name} has {a} {thing} and gets {b} more. How many {thing} are there now?", (
            f"{a} + {b} = {a + b}. The answer is {a + b}."
        )
    if rng.random() < 0.5:
        a, b = max(a, b), min(a, b)
        return f"{name} had {a} {thing} and gave away {b}. How many are left?", (
            f"{a} - {b} = {a - b}. The answer is {a - b}."
        )
    total = b * c + a
    question = f"{name} buys {c} boxes of {b} {thing} each and already has {a}. How many in all?"
    return question, f"{c} x {b} = {b * c}. {b * c} + {a} = {total}. The answer is {total}."


def salad(rng: Random) -> str:
    """Compose a line of unrelated words and names, to be copied."""
    lists = ("common", "common", "common", "noun", "adjective", "role", "abstract", "first", "last")
    parts = [one(rng, rng.choice(lists)) for _ in range(rng.randint(4, 14))]
    parts.insert(rng.randrange(len(parts)), names.fresh(rng, rng.choice(("person", "company"))))
    return " ".join(parts)
