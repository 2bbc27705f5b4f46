"""Questions about statements, which the model writes itself: probes where a fact brings none.

A written question counts only if the model answers it rightly with the statement in context: then
it asks for what the statement says, and the model can say it.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

from app.lm.chat import encode_chat, encode_text
from app.lm.loading import Bundle
from app.prompts import Message, ask, write_question
from app.scoring import score, words
from tasks.training.asking import OnAsked, answer_prompts, quiet
from tasks.training.job import Direction, Fact, Probe
from tasks.training.objectives.spans import find_names, halves

F = TypeVar("F", bound=Fact)
QUESTION_TOKENS = 48
# Room for more than the answer: whether it stops there is part of what is checked.
SPARE_TOKENS = 16


def complete(bundle: Bundle, facts: Sequence[Fact], on_asked: OnAsked = quiet) -> list[Fact]:
    """Give every fact probes that has none; the model is the one that is deployed, the parent."""
    bare = [fact for fact in facts if not fact.probes and fact.prompt is None]
    written = write(bundle, bare, on_asked)
    made = {
        fact.id: [*clozes(fact.text), *pairs] for fact, pairs in zip(bare, written, strict=True)
    }
    return [fact.model_copy(update={"probes": made.get(fact.id, fact.probes)}) for fact in facts]


def drop_ambiguous(facts: Sequence[F], others: Sequence[Fact]) -> list[F]:
    """Drop the clozes that another statement, of these or of others, completes otherwise.

    Who learns both can't answer both. A fact without any other probe keeps them.
    """
    answers: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    statements: list[Fact] = [*facts, *others]
    for text in {fact.text for fact in statements if fact.prompt is None}:
        for probe in clozes(text):
            answers[_place(probe)].add(tuple(words(probe.answers[0])))

    def clear(probe: Probe) -> bool:
        return probe.origin != "cloze" or len(answers[_place(probe)]) < 2

    def left(fact: Fact) -> list[Probe]:
        return list(filter(clear, fact.probes)) or fact.probes

    return [fact.model_copy(update={"probes": left(fact)}) for fact in facts]


def _place(cloze: Probe) -> tuple[str, ...]:
    return cloze.direction, *words(cloze.question)


def clozes(text: str) -> list[Probe]:
    """Return a cloze in each direction: one half of the statement asked from the other."""
    directions: tuple[Direction, Direction] = ("forward", "backward")
    probes = []
    for direction in directions:
        start, end = hidden_half(text, direction)
        if hidden := text[start:end].strip():
            shown = f"{text[:start]}…{text[end:]}"
            probe = Probe(question=shown, answers=[hidden], direction=direction, origin="cloze")
            probes.append(probe)
    return probes


def hidden_half(text: str, direction: Direction) -> tuple[int, int]:
    """Return which characters a cloze hides: the later half forwards, the first one backwards."""
    first, later = halves(text)
    return later if direction == "forward" else first


def write(bundle: Bundle, facts: Sequence[Fact], on_asked: OnAsked) -> list[list[Probe]]:
    """Have the model write a question for the first and the last name of each statement."""
    wanted = [
        (at, answer, direction)
        for at, fact in enumerate(facts)
        for answer, direction in _answers(fact.text)
    ]
    about = [(facts[at].text, answer) for at, answer, _ in wanted]
    probes: list[list[Probe]] = [[] for _ in facts]
    for (at, answer, direction), (question, reply) in zip(
        wanted, draft(bundle, about, on_asked), strict=True
    ):
        if words(reply) == words(answer):
            probe = Probe(question=question, answers=[answer], direction=direction, origin="model")
            probes[at].append(probe)
    return probes


def draft(
    bundle: Bundle,
    wanted: Sequence[tuple[str, str]],
    on_asked: OnAsked,
    temperature: float = 0.0,
    seed: int = 0,
    shown: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """Have the model write a question for each statement and answer, and answer it from these.

    What the question is written from may be shown in place of the statement. Of one that isn't fair
    the reply is empty.
    """
    sources = shown or [text for text, _ in wanted]
    asking = [
        write_question(source, answer) for source, (_, answer) in zip(sources, wanted, strict=True)
    ]
    questions = _generate(bundle, asking, QUESTION_TOKENS, on_asked, temperature, seed)
    told = [
        ask(question, [text]) if is_fair(question, answer, text) else []
        for (text, answer), question in zip(wanted, questions, strict=True)
    ]
    most = max((len(encode_text(bundle.tokenizer, answer)) for _, answer in wanted), default=0)
    replies = _generate(bundle, told, most + SPARE_TOKENS, on_asked)
    return list(zip(questions, replies, strict=True))


def is_fair(question: str, answer: str, text: str) -> bool:
    """Say whether a written text is a question that could be about a statement.

    It repeats a word of the statement, names and counts nothing that the statement doesn't, and
    doesn't hold its own answer, which could just be repeated.
    """
    said = set(words(text))
    opened, *rest = question.split() or [""]
    named = [word for word in (opened, *rest) if any(map(str.isdigit, word))]
    named += [word for word in rest if word[0].isupper()]
    known = all(set(words(word)) <= said for word in named)
    about = known and not said.isdisjoint(words(question))
    return question.endswith("?") and about and not score(question, [answer]).passed


def _answers(text: str) -> list[tuple[str, Direction]]:
    """Choose what is asked for: backwards who or what opens the statement, forwards its last name.

    A statement with one name is asked for that name, backwards where the statement opens with it.
    """
    spans = find_names(text)
    if not spans:
        return []
    names = list(dict.fromkeys(text[start:end] for start, end in (spans[0], spans[-1])))
    opens = spans[0][0] <= len(text) - spans[-1][1]
    directions: list[Direction] = ["backward", "forward"]
    if len(names) == 1 and not opens:
        directions = ["forward"]
    return list(zip(names, directions, strict=False))


def _generate(
    bundle: Bundle,
    chats: Sequence[list[Message]],
    tokens: int,
    on_asked: OnAsked,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Answer chats in order, an empty one or one without room for an answer by nothing."""
    room = bundle.manifest.context_length - tokens
    prompts = [encode_chat(bundle.tokenizer, chat) if chat else [] for chat in chats]
    asked = [at for at, prompt in enumerate(prompts) if 0 < len(prompt) <= room]
    replies = [""] * len(chats)
    wanted = [prompts[at] for at in asked]
    limits = [tokens] * len(wanted)
    answers = answer_prompts(bundle, wanted, limits, on_asked, temperature, seed)
    for at, reply in zip(asked, answers, strict=True):
        replies[at] = reply
    return replies
