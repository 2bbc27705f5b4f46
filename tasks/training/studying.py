"""What a fact is studied by: questions that the model writes about it and answers from it."""

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from random import Random

from app.lm.loading import Bundle
from app.recipe import Recipe
from app.scoring import words
from tasks.training.asking import OnAsked, quiet
from tasks.training.job import Fact
from tasks.training.objectives.masked import choose_gap
from tasks.training.objectives.spans import find_names, find_words, tokenize
from tasks.training.questions import draft, is_fair

# Parts of a statement that are asked about at first, at most.
NAMES, GAPS = 8, 12
# Each part is to have so many questions, which tell different things about it.
QUESTIONS = 2
# The likeliest question comes first; then others are drawn, about runs of the statement's words.
ROUNDS = 8
TEMPERATURE = 0.6

Place = tuple[str, tuple[str, ...]]  # a statement, and the words of one of its parts


def study(
    bundle: Bundle,
    facts: Sequence[Fact],
    exams: Set[str],
    recipe: Recipe,
    on_asked: OnAsked = quiet,
) -> list[Fact]:
    """Have the model write questions about parts of statements, if the recipe wants any.

    Returns the facts with what they are to be studied by; one may come away with none. Parts are
    names, gaps as infilling leaves them, and what the model answers in place of these. A question
    counts for the part that it is answered by, whatever it was to ask for. Each part but the gaps
    is asked for until it has its questions. None of these is anybody's exam.
    """
    if not recipe.study_share:
        return list(facts)
    texts = list(dict.fromkeys(fact.text for fact in facts if fact.prompt is None))
    studied: dict[str, dict[str, str]] = {text: {} for text in texts}
    rng = Random(recipe.seed)
    taken = {tuple(words(exam)) for exam in exams}
    parts = _placed((text, name) for text in texts for name in _names(text))
    wanted = parts | _placed((text, gap) for text in texts for gap in _gaps(text, bundle, rng))
    written: Counter[Place] = Counter()
    for turn in range(ROUNDS):
        asked = [(text, part) for (text, _), part in wanted.items()]
        chance = (TEMPERATURE if turn else 0.0, rng.getrandbits(32))
        shown = [excerpt(text, part, rng) if turn else text for text, part in asked]
        drafts = draft(bundle, asked, on_asked, *chance, shown=shown)
        for (text, part), (question, reply) in zip(asked, drafts, strict=True):
            if tuple(words(question)) in taken or not is_part(reply, text):
                continue
            place = (text, tuple(words(reply)))
            if words(reply) != words(part):
                parts = {place: reply} | parts
            if question not in studied[text] and is_fair(question, reply, text):
                studied[text][question] = reply
                written[place] += 1
        wanted = {place: part for place, part in parts.items() if written[place] < QUESTIONS}
    pairs = {text: list(found.items()) for text, found in studied.items()}
    return [fact.model_copy(update={"studied": pairs.get(fact.text, [])}) for fact in facts]


def excerpt(text: str, part: str, rng: Random) -> str:
    """Choose a run of a statement's words with a part in it, and one more at least.

    Of much that a statement says a question about the excerpt can only use what is left.
    """
    begin = text.find(part)
    if begin < 0:
        return text
    end = begin + len(part)
    spans = find_words(text)
    starts = [*(start for start, _ in spans if start < begin), begin]
    stops = [end, *(stop for _, stop in spans if stop > end)]
    only_part = (len(starts) - 1) * len(stops)  # of all runs, numbered by start, then by stop
    others = len(starts) * len(stops) - 1
    if not others:
        return text
    number = rng.randrange(others)
    number += number >= only_part
    return text[starts[number // len(stops)] : stops[number % len(stops)]]


def is_part(reply: str, text: str) -> bool:
    """Say whether a reply is some of a statement's words, in their order and without a gap."""
    part, whole = words(reply), words(text)
    starts = range(len(whole) - len(part) + 1)
    return 0 < len(part) < len(whole) and any(whole[at : at + len(part)] == part for at in starts)


def _names(text: str) -> list[str]:
    return [text[start:end] for start, end in find_names(text)[:NAMES]]


def _gaps(text: str, bundle: Bundle, rng: Random) -> list[str]:
    _, offsets = tokenize(bundle.tokenizer, text)
    gaps = [choose_gap(text, offsets, rng) for _ in range(GAPS)]
    return [text[offsets[gap[0]][0] : offsets[gap[-1]][1]].strip() for gap in gaps]


def _placed(parts: Iterable[tuple[str, str]]) -> dict[Place, str]:
    """Key parts by their words, as they may be spelled in more ways than one; none is all of it."""
    return {(text, tuple(words(part))): part for text, part in parts if is_part(part, text)}
