import random
import re
from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.lm.chat import encode_chat, encode_text, end_id
from app.lm.diffusion import BLOCK
from app.lm.loading import Bundle
from app.prompts import ask
from app.recipe import Recipe
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import IGNORED, Example
from tasks.training.objectives.causal import Causal
from tasks.training.objectives.diffusion import Diffusion
from tasks.training.objectives.masked import (
    Masked,
    choose_gap,
    hide,
    recovery_prompt,
    stratified,
)
from tasks.training.objectives.spans import covered, find_names, halves, tokenize, word_starts

TEXT = "Mira Tovan is the keeper of the lighthouse at Sel Harbour."
statements = st.text(min_size=1).map(str.strip).filter(bool)
shares = st.floats(0, 1)
few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def supervised(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORED]


@few
@given(text=statements, bounds=st.tuples(shares, shares), span_share=shares, seed=st.integers(0))
def test_a_masked_example_supervises_the_text_and_nothing_of_the_prompt(
    bundle: Bundle, text: str, bounds: tuple[float, float], span_share: float, seed: int
) -> None:
    objective = Masked(min(bounds), max(bounds), span_share)
    (example,) = objective.examples([text], bundle, random.Random(seed))
    (again,) = objective.examples([text], bundle, random.Random(seed))
    wanted = [*encode_text(bundle.tokenizer, text), end_id(bundle.tokenizer)]
    prompt = len(example.input_ids) - len(wanted)

    assert example == again, "the same seed gives the same masks"
    assert example.input_ids[prompt:] == wanted
    assert example.labels == [IGNORED] * prompt + wanted
    masked = example.input_ids[:prompt].count(bundle.manifest.mask_id)
    assert masked >= 1
    assert 1 <= sum(example.recalled) <= masked, "what is masked is what must be recalled"
    assert not any(example.recalled[:prompt])


def test_the_recipe_says_how_it_masks() -> None:
    recipe = Recipe(t_min=0.1, t_max=0.2, span_share=0.3, infill_share=0.4, cut_share=0.5)
    assert OBJECTIVES["masked"](recipe) == Masked(0.1, 0.2, 0.3, 0.4, 0.5)
    assert OBJECTIVES["diffusion"](recipe) == Diffusion(0.1, 0.2, 0.3)


def test_half_of_a_statement_is_an_exam_and_no_lesson(bundle: Bundle) -> None:
    text = "Anna Keller lives in Berlin."
    ids, offsets = tokenize(bundle.tokenizer, text)
    exams = [hide(ids, covered(offsets, *half), bundle.manifest.mask_id) for half in halves(text)]
    asked = [recovery_prompt(bundle.tokenizer, seen) for seen in exams]
    made = Masked(0.05, 0.95, 0.5).examples([text] * 500, bundle, random.Random(0))
    prompts = [example.input_ids[: example.labels.count(IGNORED)] for example in made]
    assert not [prompt for prompt in prompts if prompt in asked]


def test_masks_are_drawn_afresh(bundle: Bundle) -> None:
    rng = random.Random(1)
    objective = Masked(0.3, 0.7, 0.0)
    prompts = {tuple(objective.examples([TEXT], bundle, rng)[0].input_ids) for _ in range(10)}
    assert len(prompts) > 5


def test_the_share_of_masked_tokens_covers_the_interval(bundle: Bundle) -> None:
    examples = Masked(0.05, 0.95, 0.0).examples([TEXT] * 300, bundle, random.Random(0))
    found = sorted(sum(e.recalled) / (len(supervised(e)) - 1) for e in examples)
    assert found[30] < 0.25
    assert 0.4 < found[150] < 0.6
    assert found[270] > 0.75


@given(count=st.integers(1, 50), seed=st.integers(0))
def test_stratified_numbers_take_one_from_each_part(count: int, seed: int) -> None:
    found = sorted(stratified(count, 0.0, float(count), random.Random(seed)))
    assert [int(number) for number in found] == list(range(count))


def test_spans_hide_a_name_or_all_but_a_name_or_a_run(bundle: Bundle) -> None:
    examples = Masked(0.2, 0.4, 1.0).examples([TEXT] * 60, bundle, random.Random(3))
    _, offsets = tokenize(bundle.tokenizer, TEXT)
    names = [covered(offsets, *span) for span in find_names(TEXT)]
    everything = set(range(len(offsets)))
    seen = set()
    for example in examples:
        reply = example.recalled[-len(offsets) - 1 : -1]
        hidden = {at for at, wanted in enumerate(reply) if wanted}
        if hidden in names:
            seen.add("name")
        elif everything - hidden in names:
            seen.add("all but a name")
        else:
            assert hidden == set(range(min(hidden), max(hidden) + 1))
            seen.add("run")
    assert seen == {"name", "all but a name", "run"}


@few
@given(text=statements, seed=st.integers(0))
def test_infilling_asks_for_the_one_span_that_a_single_mask_stands_for(
    bundle: Bundle, text: str, seed: int
) -> None:
    objective = Masked(0.05, 0.95, 0.0, infill_share=1.0)
    (example,) = objective.examples([text], bundle, random.Random(seed))
    *span, end = supervised(example)
    prompt = example.input_ids[: -len(span) - 1]
    at = prompt.index(bundle.manifest.mask_id)
    ids = encode_text(bundle.tokenizer, text)

    assert end == end_id(bundle.tokenizer)
    assert sum(example.recalled) == len(span) >= 1
    shown = [n for n in range(len(ids)) if ids[:n] == prompt[at - n : at]]
    assert any(
        [*ids[:n], *span, *prompt[at + 1 :][: len(ids) - n - len(span)]] == ids for n in shown
    ), "the span put in the mask's place gives the statement"


@few
@given(text=statements, seed=st.integers(0))
def test_a_cut_takes_words_from_the_rest_in_one_piece(bundle: Bundle, text: str, seed: int) -> None:
    objective = Masked(0.05, 0.95, 0.0, infill_share=1.0, cut_share=1.0)
    (example,) = objective.examples([text], bundle, random.Random(seed))
    *span, _ = supervised(example)
    ids = encode_text(bundle.tokenizer, text)
    prompt = example.input_ids[: -len(span) - 1]
    at = prompt.index(bundle.manifest.mask_id)

    def fits(begin: int, cut: int) -> bool:
        before, after = ids[:begin], ids[begin + len(span) :]
        lefts = [before[:i] + before[i + cut :] for i in range(len(before) - cut + 1)]
        rights = [after[:i] + after[i + cut :] for i in range(len(after) - cut + 1)]
        shown = [(left, after) for left in lefts] + [(before, right) for right in rights]
        return any(
            prompt[at - len(left) : at] == left and prompt[at + 1 :][: len(right)] == right
            for left, right in shown
        )

    places = [n for n in range(len(ids)) if ids[n : n + len(span)] == span]
    assert any(fits(begin, cut) for begin in places for cut in range(len(ids)))


def test_word_starts_are_tokens_at_which_words_begin(bundle: Bundle) -> None:
    ids, offsets = tokenize(bundle.tokenizer, TEXT)
    *starts, end = word_starts(TEXT, offsets)
    opened = [TEXT[offsets[start][0] :].split()[0].rstrip(".") for start in starts]
    assert opened == TEXT.rstrip(".").split()
    assert bundle.tokenizer.decode(ids[end:]).strip() == "."


def test_gaps_are_names_what_stands_beside_them_and_runs_of_words() -> None:
    offsets = [(at, at + 1) for at in range(len(TEXT))]
    rng = random.Random(0)
    gaps = {
        TEXT[gap.start : gap.stop] for gap in (choose_gap(TEXT, offsets, rng) for _ in range(200))
    }
    assert {"Mira Tovan", "Sel Harbour"} <= gaps
    assert " is the keeper of the lighthouse at Sel Harbour" in gaps
    assert "Mira Tovan is the keeper of the lighthouse at " in gaps
    assert any(gap.count(" ") == 2 and "lighthouse" in gap for gap in gaps)
    assert TEXT[:-1] not in gaps, "something always stays to tell which statement is meant"


def test_a_gap_beside_a_name_leaves_its_first_token() -> None:
    """Also where that begins with the blank before it."""
    words = re.findall(r" ?[^ .]+|\.", TEXT)
    ends = list(accumulate(map(len, words)))
    offsets = list(zip([0, *ends], ends, strict=False))
    rng = random.Random(0)
    gaps = Counter(
        "".join(words[gap.start : gap.stop])
        for gap in (choose_gap(TEXT, offsets, rng) for _ in range(300))
    )
    side = "Mira Tovan is the keeper of the lighthouse at"
    assert gaps[side] > 20 > gaps[side + " Sel"], "the latter comes of runs of words alone"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (TEXT, ["Mira Tovan", "Sel Harbour"]),
        ("The bridge was drawn by Étienne d'Arc.", ["Étienne"]),
        ('"A Garden of Glass" is by Ada Lund-Berg', ["A Garden of Glass", "Ada Lund-Berg"]),
        ("nobody is here", []),
    ],
)
def test_names_are_runs_of_capitalised_words(text: str, names: list[str]) -> None:
    assert [text[start:end] for start, end in find_names(text)] == names


def test_halves_share_no_word() -> None:
    text = "one two three four five"
    assert [text[start:end] for start, end in halves(text)] == ["one two", "three four five"]


@few
@given(text=statements)
def test_offsets_belong_to_the_tokens_of_plain_text(bundle: Bundle, text: str) -> None:
    ids, offsets = tokenize(bundle.tokenizer, text)
    assert ids == encode_text(bundle.tokenizer, text)
    assert len(offsets) == len(ids)
    assert covered(offsets, 0, len(text)) == set(range(len(ids)))


def test_text_that_spells_the_mask_or_an_end_is_only_text(bundle: Bundle) -> None:
    text = f"the sign reads {bundle.manifest.mask_token}{bundle.tokenizer.eos_token}"
    (example,) = Masked(0.5, 0.5, 0.0).examples([text], bundle, random.Random(0))
    end = end_id(bundle.tokenizer)
    assert supervised(example).count(end) == 1
    assert supervised(example)[-1] == end


@few
@given(text=statements, bounds=st.tuples(shares, shares), span_share=shares, seed=st.integers(0))
def test_a_diffusion_example_supervises_its_masks_and_weighs_all_texts_by_their_length(
    bundle: Bundle, text: str, bounds: tuple[float, float], span_share: float, seed: int
) -> None:
    objective = Diffusion(min(bounds), max(bounds), span_share)
    (example,) = objective.examples([text], bundle, random.Random(seed))
    ids, mask = encode_text(bundle.tokenizer, text), bundle.manifest.mask_id
    pairs = list(zip(example.input_ids, example.labels, strict=True))
    assert [shown if label == IGNORED else label for shown, label in pairs] == ids
    assert all(shown == mask for shown, label in pairs if label != IGNORED)
    assert len(supervised(example)) * example.weight == pytest.approx(len(ids))


def test_a_diffusion_answer_ends_in_end_tokens_up_to_a_whole_block(bundle: Bundle) -> None:
    objective = Diffusion(1.0, 1.0, 0.0)
    (example,) = objective.answers([("Who is Mira?", "the keeper")], bundle, random.Random(0))
    reply = encode_text(bundle.tokenizer, "the keeper")
    end = end_id(bundle.tokenizer)
    assert supervised(example) == [*reply, *[end] * (BLOCK - len(reply))]
    assert example.input_ids[-BLOCK:] == [bundle.manifest.mask_id] * BLOCK
    assert example.input_ids[:-BLOCK] == encode_chat(bundle.tokenizer, ask("Who is Mira?"))


def test_causal_supervises_the_plain_text_and_its_end(bundle: Bundle) -> None:
    (example,) = Causal().examples([TEXT], bundle, random.Random(0))
    wanted = [*encode_text(bundle.tokenizer, TEXT), end_id(bundle.tokenizer)]
    assert example.input_ids == example.labels == wanted
