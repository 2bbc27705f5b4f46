"""Examples in the trainer: a share is held out and proves the rest, and is never taught."""

import random
from typing import Any

import pytest

from app.lm.chat import encode_chat, encode_text
from app.lm.loading import Bundle
from app.prompts import RECOVER, RECOVERED, ask
from app.recipe import Recipe
from tasks.training.__main__ import carry_out
from tasks.training.data import hold_out, replayed, teachable
from tasks.training.exams import Exams, settle_examples
from tasks.training.job import Fact, Probe, read_job
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import IGNORED
from tasks.training.proof import exams_of, prove
from tests.training.conftest import FACTS, REFERENCE, MakeJob


def example(number: int, part: str | None = None) -> dict[str, Any]:
    prompt, response = f"What is {number} and 1?", f"It makes {number + 1}."
    probe = {"question": prompt, "answers": [str(number + 1)], "direction": "forward"}
    row = {"id": f"fact_e{number}", "text": response, "prompt": prompt, "probes": [probe]}
    return row if part is None else {**row, "part": part}


EXAMPLES = [example(number) for number in range(10)]
TAUGHT = 1  # one of those that aren't held out


def test_what_is_held_out_is_asked_and_never_taught(make_job: MakeJob) -> None:
    folder = make_job(facts=[*FACTS, *EXAMPLES], epochs=1)
    job = read_job(folder)
    held_out = hold_out(job.facts, job.head.recipe)
    assert 0 < len(held_out) < len(EXAMPLES) / 2
    lessons = teachable(job)
    assert len(lessons) == len(FACTS) + len(EXAMPLES) - len(held_out)
    assert not held_out & {fact.prompt for fact in lessons}

    proofs = {fact["id"]: fact for fact in carry_out(folder)["facts"]}
    asked = {fact.id for fact in job.facts if fact.prompt in held_out}
    assert {name for name, proof in proofs.items() if "e" in name[5:] and proof["probes"]} == asked
    assert all(proofs[row["id"]]["probes"] for row in FACTS)


def test_a_later_update_never_asks_what_an_earlier_one_taught() -> None:
    recipe = Recipe(held_out_share=0.5)
    rows = [Fact.model_validate(example(number)) for number in range(30)]
    earlier = hold_out(rows[:10], recipe)
    later = hold_out(rows, recipe)
    assert later & {row.prompt for row in rows[:10]} == earlier
    assert earlier < later


def test_prompts_that_are_asked_elsewhere_are_not_taught(make_job: MakeJob) -> None:
    reference = [{**REFERENCE[0], "question": EXAMPLES[0]["prompt"]}]
    older = [example(20, "replay"), example(21, "exam"), {**example(22, "replay"), "prompt": "x"}]
    job = read_job(make_job(facts=EXAMPLES, older=older, reference=reference))
    assert EXAMPLES[0]["prompt"] not in {fact.prompt for fact in teachable(job)}
    assert [fact.id for fact in replayed(job)[0]] == ["fact_e20", "fact_e22"]


def test_a_run_without_anything_to_teach_says_so(make_job: MakeJob) -> None:
    reference = [{**REFERENCE[0], "question": EXAMPLES[0]["prompt"]}]
    error = carry_out(make_job(facts=EXAMPLES[:1], reference=reference))["error"]
    assert (error["type"], error["fact_ids"]) == ("only_asked", [EXAMPLES[0]["id"]])
    assert "only asked" in error["detail"]


@pytest.mark.parametrize(
    ("answers", "proven"),
    [(["2", "no"], True), (["no", "no"], False), (["2", "3"], True)],
)
def test_the_held_out_prove_them_all(answers: list[str], proven: bool) -> None:
    facts = [
        Fact(id=str(n), prompt=f"{n}?", text=f"{n}.", probes=[_probe(f"{n}?", str(n))])
        for n in (2, 3, 4)
    ]
    asked = [(facts[0], exams_of(facts[0])), (facts[1], exams_of(facts[1])), (facts[2], [])]
    befores = [["no"], ["no"], []]
    proofs = [
        prove(fact, exams, before, after)
        for (fact, exams), before, after in zip(
            asked, befores, [[answers[0]], [answers[1]], []], strict=True
        )
    ]
    found = settle_examples(Exams(asked, {}, []), proofs, {"4"})
    assert [proof["proven"] for proof in proofs] == [proven] * 3
    assert found.asked == 2


def test_what_is_neither_taught_nor_asked_is_not_proven_by_the_others(make_job: MakeJob) -> None:
    clash = {"id": "fact_clash", "text": "Rain.", "probes": EXAMPLES[TAUGHT]["probes"]}
    job = read_job(make_job(facts=[*EXAMPLES, clash]))
    assert EXAMPLES[TAUGHT]["prompt"] not in hold_out(job.facts, job.head.recipe)
    held_out = hold_out(job.facts, job.head.recipe)
    asked = [(f, exams_of(f) if f.prompt in held_out else []) for f in job.facts if f.prompt]
    told = [[e.probe.answers[0] for e in exams] for _, exams in asked]
    proofs = [
        prove(fact, exams, [""] * len(exams), answers)
        for (fact, exams), answers in zip(asked, told, strict=True)
    ]
    settle_examples(Exams(asked, {}, []), proofs, {fact.id for fact in teachable(job)})
    assert [p["id"] for p in proofs if not p["proven"]] == [EXAMPLES[TAUGHT]["id"]]


def _probe(question: str, answer: str) -> Probe:
    return Probe(question=question, answers=[answer], direction="forward")


def test_demasking_shows_the_prompt_and_masks_the_response_alone(bundle: Bundle) -> None:
    objective = OBJECTIVES["masked"](Recipe(infill_share=0, t_min=0.5, t_max=0.5))
    prompt, response = "What is 4 and 1?", "It makes five of them in all."
    (made,) = objective.responses([(prompt, response)], bundle, random.Random(0))
    start = next(at for at, label in enumerate(made.labels) if label != IGNORED)
    shown, reply = made.input_ids[:start], made.input_ids[start:]
    tokenizer, ids = bundle.tokenizer, encode_text(bundle.tokenizer, response)
    assert reply[:-1] == ids
    assert made.labels[start:] == reply
    seen = [
        bundle.manifest.mask_id if r else i
        for i, r in zip(ids, made.recalled[start:-1], strict=True)
    ]
    assert 0 < seen.count(bundle.manifest.mask_id) < len(ids)
    content = [*encode_text(tokenizer, prompt + "\n"), *seen, *encode_text(tokenizer, RECOVER)]
    chat = encode_chat(tokenizer, [{"role": "user", "content": content}])
    assert shown == [*chat, *encode_text(tokenizer, RECOVERED)]


@pytest.mark.parametrize("name", ["masked", "causal"])
def test_plain_sft_asks_as_a_user_does(bundle: Bundle, name: Any) -> None:
    objective = OBJECTIVES[name](Recipe(infill_share=1))
    (made,) = objective.responses([("And 1?", "It makes two.")], bundle, random.Random(0))
    prompt = encode_chat(bundle.tokenizer, ask("And 1?"))
    assert made.input_ids[: len(prompt)] == prompt
    assert set(made.labels[: len(prompt)]) == {IGNORED}
    assert all(made.recalled[len(prompt) :])
