"""What a fact is studied by: questions that the model writes about it and answers from it."""

from collections.abc import Iterable, Sequence, Set
from random import Random

from app.lm.loading import Bundle
from app.recipe import Recipe
from app.scoring import words
from tasks.training.asking import OnAsked, quiet
from tasks.training.job import Fact
from tasks.training.objectives.masked import choose_gap
from tasks.training.objectives.spans import find_names, tokenize
from tasks.training.questions import draft

# Parts of a statement that are asked about at first, at most.
NAMES, GAPS = 8, 6
# The likeliest question may have another answer than it should; then others are drawn.
ROUNDS = 8
TEMPERATURE = 0.9

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
    names, gaps as infilling leaves them, and what the model answers in place of these: a gap seldom
    ends where an answer does. Each but the gaps is tried until it has a question. None of these is
    anybody's exam.
    """
    if not recipe.study_share:
        return list(facts)
    studied: dict[str, list[tuple[str, str]]] = {}
    rng = Random(recipe.seed)
    texts = list(dict.fromkeys(fact.text for fact in facts if fact.prompt is None))
    taken = {tuple(words(exam)) for exam in exams}
    parts = _placed((text, name) for text in texts for name in _names(text))
    wanted = parts | _placed((text, gap) for text in texts for gap in _gaps(text, bundle, rng))
    done: set[Place] = set()
    for turn in range(ROUNDS):
        asked = [(text, part) for (text, _), part in wanted.items()]
        chance = (TEMPERATURE if turn else 0.0, rng.getrandbits(32))
        drafts = draft(bundle, asked, on_asked, *chance)
        for (text, part), (question, reply) in zip(asked, drafts, strict=True):
            if tuple(words(question)) in taken:
                continue
            if words(reply) == words(part):
                studied.setdefault(text, []).append((question, part))
                done |= _placed([(text, part)]).keys()
            elif is_part(reply, text):
                parts = _placed([(text, reply)]) | parts
        wanted = {place: part for place, part in parts.items() if place not in done}
    return [fact.model_copy(update={"studied": studied.get(fact.text, [])}) for fact in facts]


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
