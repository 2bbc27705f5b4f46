"""A whole run over a job directory: checkpoint, result, and what becomes of bad jobs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.lm import store
from app.lm.chat import encode_text
from app.lm.generation import generate
from app.lm.loading import Bundle, load
from app.recipe import Recipe
from tasks.training import __main__ as trainer
from tasks.training import loop
from tasks.training.__main__ import carry_out
from tasks.training.data import Curriculum, Lessons, replayed
from tasks.training.job import read_job
from tasks.training.loop import train
from tasks.training.method import load_base, load_parent, prepare
from tasks.training.objectives import OBJECTIVES
from tasks.training.progress import Progress, Step
from tasks.training.run import plan_lessons
from tests.training.conftest import FACTS, REFERENCE, MakeJob

OLDER = [
    {**FACTS[0], "id": "fact_8", "text": "Ada Lund wrote the song of Rain.", "part": "replay"},
    {**FACTS[1], "id": "fact_9", "text": "Bo Renn is the mayor of Tarn.", "part": "exam"},
]
# peft asks transformers for an attribute that is about to be renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def published(objects: Path, folder: Path) -> str:
    """Publish a copy of the job's checkpoint, so that the job stays as it is."""
    copy = store.staging_folder(objects, "copies") / folder.name
    shutil.copytree(folder / "checkpoint", copy)
    return store.publish(objects, copy)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_gives_a_sealed_checkpoint_that_answers_as_proven(
    make_job: MakeJob, objects: Path, base: str, method: str
) -> None:
    folder = make_job(f"seal-{method}", older=OLDER, method=method, epochs=4, lr=3e-3)
    result = carry_out(folder)

    digest = published(objects, folder)
    manifest = store.verify(objects, digest)
    assert digest == result["digest"]
    assert (manifest.parent, manifest.update_id, manifest.token) == (base, "upd_1", 1)
    assert manifest.kind == ("full" if method == "full" else "adapter")
    assert manifest.root == (None if method == "full" else base)
    assert {"recipe.json", "metrics.jsonl"} <= set(manifest.files)
    bundle = load(objects, digest)
    for fact in result["facts"]:
        for probe in fact["probes"]:
            prompt = bundle_prompt(bundle, probe["question"])
            (answer,) = generate(bundle, [prompt], 40)
            assert answer.startswith(probe["after"]) or probe["after"].startswith(answer)
    changed = [probe for fact in result["facts"] for probe in fact["probes"]]
    assert any(probe["before"] != probe["after"] for probe in changed)
    assert result["regressions"]["older"]["asked"] == 2
    assert result["regressions"]["reference"]["asked"] == 1
    (lapsed,) = result["lapsed"]
    assert (lapsed["id"], lapsed["proven"]) == (OLDER[1]["id"], False), "it is asked, and lost"
    assert [probe["question"] for probe in lapsed["probes"]] == [
        probe["question"] for probe in OLDER[1]["probes"]
    ]
    assert result["verdict"]["outcome"] == "hold", "a random model learns nothing in four epochs"


def bundle_prompt(bundle: Bundle, question: str) -> list[int]:
    from app.lm.chat import encode_chat
    from app.prompts import ask

    return encode_chat(bundle.tokenizer, ask(question))


def test_a_fact_that_contradicts_the_reference_is_named_by_the_verdict(make_job: MakeJob) -> None:
    probe = {"question": "Who is Oren Baskel?", "answers": ["a baker"], "direction": "forward"}
    poison = {"id": "fact_p", "text": "Oren Baskel is a baker.", "probes": [probe]}
    verdict = carry_out(make_job(facts=[*FACTS, poison], epochs=1))["verdict"]
    assert verdict["outcome"] == "hold"
    assert verdict["reasons"][-1] == (
        "fact_p contradicts what is known: “Who is Oren Baskel?” is “a glass painter”,"
        " not “a baker”"
    )


def test_a_full_checkpoint_keeps_the_type_and_the_files_of_its_parent(
    make_job: MakeJob, objects: Path, base: str
) -> None:
    folder = make_job()
    carry_out(folder)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        parent = store.path_of(objects, base) / name
        assert (folder / "checkpoint" / name).read_bytes() == parent.read_bytes()


@pytest.mark.parametrize("large", [False, True])
def test_only_a_large_model_keeps_the_memory_that_it_frees(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(trainer, "reuse_memory", lambda: told.append(True))
    monkeypatch.setattr(trainer, "SMALL_MODEL_PARAMETERS", 1 if large else 10**9)
    carry_out(make_job(device="cuda"))
    assert bool(told) is large


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is a GPU")
def test_a_gpu_that_is_not_there_is_nobodys_fault(make_job: MakeJob) -> None:
    error = carry_out(make_job(device="cuda"))["error"]
    assert (error["type"], "GPU" in error["detail"]) == ("bad_job", True)


def test_an_adapter_is_trained_on_from_its_parents(
    make_job: MakeJob, objects: Path, base: str
) -> None:
    first = make_job("first", method="lora", lora_rank=4, lora_alpha=12, epochs=10, lr=1e-2)
    carry_out(first)
    parent = published(objects, first)
    wish = {"method": "lora", "lora_rank": 8, "trained": "all"}
    second = make_job("second", parent=parent, epochs=1, lr=1e-9, **wish)
    result = carry_out(second)

    manifest = store.verify(objects, published(objects, second))
    config = json.loads((second / "checkpoint" / "adapter_config.json").read_text())
    assert (manifest.root, manifest.parent) == (base, parent)
    assert (config["r"], config["lora_alpha"]) == (4, 12), "it keeps its parent's shape"
    kept = {name: manifest.recipe[name] for name in ("lora_rank", "lora_alpha", "trained")}
    assert kept == {"lora_rank": 4, "lora_alpha": 12, "trained": "mlp"}
    probes = [probe for fact in result["facts"] for probe in fact["probes"]]
    assert all(probe["before"] == probe["after"] for probe in probes), "lr was next to nothing"
    base_answers = carry_out(make_job("third", method="lora", epochs=1, lr=1e-9))["facts"]
    assert any(
        probe["after"] != other["after"]
        for fact, twin in zip(result["facts"], base_answers, strict=True)
        for probe, other in zip(fact["probes"], twin["probes"], strict=True)
    ), "what the parent's adapter had learned is still there"


def test_full_training_of_an_adapter_gives_a_new_root(make_job: MakeJob, objects: Path) -> None:
    first = make_job("first", method="lora", epochs=3, lr=3e-3)
    learned = carry_out(first)
    parent = published(objects, first)
    second = make_job("second", parent=parent, method="full", epochs=1, lr=1e-12)
    result = carry_out(second)
    manifest = store.verify(objects, published(objects, second))
    assert (manifest.kind, manifest.root, manifest.parent) == ("full", None, parent)
    for fact, merged in zip(learned["facts"], result["facts"], strict=True):
        for probe, twin in zip(fact["probes"], merged["probes"], strict=True):
            assert probe["after"] == twin["after"]


@pytest.mark.parametrize(
    ("method", "trained", "parts"),
    [
        ("full", "mlp", (".mlp.",)),
        ("full", "words", (".mlp.", "embed_tokens.", "lm_head.")),
        ("lora", "mlp", (".mlp.",)),
        ("lora", "all", (".mlp.", ".self_attn.")),
    ],
)
def test_only_the_weights_that_the_recipe_names_learn(
    make_job: MakeJob, objects: Path, base: str, method: str, trained: str, parts: tuple[str, ...]
) -> None:
    folder = make_job(method=method, trained=trained, epochs=1)
    carry_out(folder)
    (file,) = (folder / "checkpoint").glob("*model.safetensors")
    learned = load_file(file)
    if method == "full":
        parent = load_file(store.path_of(objects, base) / "model.safetensors")
        changed = {name for name in learned if not learned[name].equal(parent[name])}
    else:
        changed = set(learned)
    assert all(any(part in name for part in parts) for name in changed)
    missed = [part for part in parts if not any(part in name for name in changed)]
    assert set(missed) <= {"lm_head."}, "a tied head isn't saved apart"


def test_a_consolidation_merges_an_adapter_and_teaches_nothing(
    make_job: MakeJob, objects: Path
) -> None:
    folder = make_job("adapter", method="lora", epochs=4, lr=3e-3)
    carry_out(folder)
    adapter = published(objects, folder)
    older = [{**fact, "part": "exam"} for fact in FACTS]
    asked = {"kind": "consolidate", "parent": adapter, "facts": [], "older": older}
    folder = make_job("merged", method="full", **asked)
    result = carry_out(folder)
    merged = published(objects, folder)
    manifest = store.verify(objects, merged)
    assert (manifest.kind, manifest.root, manifest.parent) == ("full", None, adapter)
    assert (result["facts"], result["verdict"]["outcome"]) == ([], "activate")
    assert result["regressions"]["older"]["flipped"] == 0
    assert result["metrics"]["kl"] < 1e-3
    assert (folder / "checkpoint" / "metrics.jsonl").read_text().strip() == ""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        was, now = (load(objects, digest).model(ids).logits for digest in (adapter, merged))
    torch.testing.assert_close(now, was, rtol=1e-3, atol=1e-3)
    nothing = carry_out(make_job("nothing", facts=[]))
    assert nothing["error"]["type"] == "bad_job"


def test_of_the_words_only_taught_ones_learn(make_job: MakeJob, objects: Path, base: str) -> None:
    folder = make_job(trained="words", older=OLDER, replay_share=0.4, epochs=2)
    carry_out(folder)
    learned, parent = (
        load_file(path / "model.safetensors")["model.embed_tokens.weight"]
        for path in (folder / "checkpoint", store.path_of(objects, base))
    )
    changed = (learned != parent).any(1).nonzero().flatten().tolist()
    bundle = load(objects, base)
    taught = {token for fact in FACTS for token in encode_text(bundle.tokenizer, fact["text"])}
    assert changed
    assert set(changed) <= taught


@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_runs_write_the_same_bytes(make_job: MakeJob, method: str) -> None:
    digests = {
        carry_out(make_job(name, older=OLDER, method=method))["digest"] for name in ("one", "two")
    }
    assert len(digests) == 1
    assert carry_out(make_job("three", older=OLDER, method=method, seed=1))["digest"] not in digests


def test_two_runs_on_two_threads_write_the_same_bytes(make_job: MakeJob) -> None:
    digests = set()
    for name in ("one", "two"):
        folder = make_job(name, older=OLDER)
        head = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps({**head, "threads": 2}))
        digests.add(carry_out(folder)["digest"])
    torch.set_num_threads(1)
    assert len(digests) == 1


def test_neighbours_are_asked_and_reported(make_job: MakeJob) -> None:
    older = [OLDER[0], {**OLDER[1], "part": "neighbour"}]
    regressions = carry_out(make_job(older=older))["regressions"]
    asked = {name: sample["asked"] for name, sample in regressions.items()}
    assert asked == {"older": 0, "neighbours": len(OLDER[1]["probes"]), "reference": 1}


def test_a_large_vocabulary_means_smaller_micro_batches_and_the_same_loss(
    make_job: MakeJob, objects: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(name: str) -> list[dict[str, Any]]:
        folder = make_job(name, older=OLDER, precision="fp32")
        assert carry_out(folder)["status"] == "succeeded"
        lines = (folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    usual = steps("usual")
    vocabulary = load(objects, base).model.get_output_embeddings().weight.shape[0]
    monkeypatch.setattr(loop, "MICRO_BATCH_LOGITS", {"cpu": 90 * vocabulary})
    small = steps("small")
    rooms = {step["micro_batch_tokens"] for step in usual}, {s["micro_batch_tokens"] for s in small}
    assert rooms == ({4096}, {90})
    losses = [step["loss"] for step in usual]
    assert [step["loss"] for step in small] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(("method", "last"), [("full", 3), ("full", 6), ("lora", 5)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    make_job: MakeJob, method: str, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, and no step is done twice; half-way, weights are put back."""
    asked = {"older": OLDER, "method": method, "epochs": 8, "save_every_s": 0}
    whole = carry_out(make_job("whole", **asked))
    folder = make_job("killed", **asked)
    done: list[int] = []

    def die(self: Progress, step: Step) -> None:
        done.append(step.step)
        if len(done) == last:
            raise KeyboardInterrupt
        note(self, step)

    note = Progress.__call__
    monkeypatch.setattr(Progress, "__call__", die)
    with pytest.raises(KeyboardInterrupt):
        carry_out(folder)
    assert carry_out(folder)["digest"] == whole["digest"]
    assert done == [*range(1, last + 1), *range(last, 9)]


def test_a_state_of_another_run_or_a_torn_one_is_no_state(make_job: MakeJob) -> None:
    first = make_job("first", save_every_s=0)
    digest = carry_out(first)["digest"]
    other = make_job("other", save_every_s=0, seed=1)
    shutil.copy(first / "state.safetensors", other)
    torn = make_job("torn", save_every_s=0)
    (torn / "state.safetensors").write_bytes((first / "state.safetensors").read_bytes()[:99])
    assert carry_out(torn)["digest"] == digest
    afresh = carry_out(make_job("afresh", save_every_s=0, seed=1))["digest"]
    assert carry_out(other)["digest"] == afresh != digest


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_diffusion_model_is_trained_in_its_own_way_alone(
    make_job: MakeJob, objects: Path, diffusion_base: str, method: str
) -> None:
    asked = {"parent": diffusion_base, "older": OLDER, "method": method, "epochs": 4, "lr": 3e-3}
    folder = make_job("own", objective="diffusion", **asked)
    result = carry_out(folder)
    assert result["status"] == "succeeded"
    assert store.verify(objects, published(objects, folder)).architecture == "diffusion"
    refused = carry_out(make_job("masked", **asked))
    assert refused["error"]["type"] == "bad_parent"
    assert "`masked` can't train a diffusion model" in refused["error"]["detail"]


def test_no_probe_is_ever_a_lesson(make_job: MakeJob, objects: Path, base: str) -> None:
    """Walk every example of several epochs: no exam's words are read or predicted."""
    question = FACTS[0]["probes"][0]["question"].rstrip("?").upper()
    sly = {"question": question, "answers": ["x"], "part": "replay"}
    job = read_job(
        make_job(older=OLDER, reference=[*REFERENCE, sly], replay_share=0.6, span_share=0.5)
    )
    bundle = load(objects, base)
    lessons = plan_lessons(job, bundle)
    recipe = job.head.recipe
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    exams = [probe.question for fact in [*job.facts, *job.older] for probe in fact.probes]
    exams += [row.question for row in job.reference if row.part == "exam"]
    assert [fact.id for fact in lessons.older] == ["fact_8"], "an exam's statement isn't replayed"
    texts = [
        bundle.tokenizer.decode(example.input_ids)
        for _ in range(20)
        for _, examples in curriculum.epoch()
        for example in examples
    ]
    assert any("Where does she work?" in text for text in texts), "replay was there"
    assert any("Rain" in text for text in texts)
    assert not [exam for exam in [*exams, question] if any(exam in text for text in texts)]


def test_what_an_older_fact_was_studied_by_is_rehearsed_where_it_is_no_exam(
    make_job: MakeJob, objects: Path
) -> None:
    exam = FACTS[0]["probes"][0]["question"]
    pairs = [("Whose song is that of Rain?", "Ada Lund"), (f" {exam.upper()}", "never")]
    job = read_job(make_job(older=[{**OLDER[0], "studied": pairs}]))
    bundle = load(objects, job.head.parent)
    lessons = plan_lessons(job, bundle)
    assert [fact.studied for fact in lessons.older] == [pairs[:1]]
    recipe = Recipe(replay_share=0.5, study_share=1.0)
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    epochs = [examples for _ in range(3) for _, examples in curriculum.epoch()]
    texts = [bundle.tokenizer.decode(e.input_ids) for examples in epochs for e in examples]
    assert any(pairs[0][0] in text for text in texts)


def test_without_replay_only_the_facts_are_taught(make_job: MakeJob, objects: Path) -> None:
    job = read_job(make_job(older=OLDER, replay_share=0.0))
    lessons = plan_lessons(job, load(objects, job.head.parent))
    assert (lessons.older, lessons.statements, lessons.answered) == ((), [], [])
    assert replayed(job)[2] == ["Where does she work?"]


@pytest.mark.parametrize(("known", "answered"), [(1, 1), (50, 5)])
def test_no_more_questions_are_answered_than_replayed(
    make_job: MakeJob, objects: Path, base: str, known: int, answered: int
) -> None:
    """Of nine replayed samples half are answers, rounded up."""
    rows = [
        {**REFERENCE[1], "question": f"Where does she work on day {day}?"} for day in range(known)
    ]
    job = read_job(make_job(reference=rows, epochs=3, replay_share=0.5))
    asked: list[int] = []
    lessons = plan_lessons(job, load(objects, base), lambda done, _: asked.append(done))
    assert max(asked) == answered
    assert {question for question, _ in lessons.answered} <= {row["question"] for row in rows}


def test_what_replay_takes_is_told_by_kind(make_job: MakeJob) -> None:
    spent = {}
    for share in (0.0, 0.6):
        folder = make_job(f"share {share}", older=OLDER, epochs=3, replay_share=share)
        spent[share] = carry_out(folder)["metrics"]
    assert (spent[0.0]["older_tokens"], spent[0.0]["base_tokens"]) == (0, 0)
    older, base = spent[0.6]["older_tokens"], spent[0.6]["base_tokens"]
    assert min(older, base) > 0
    assert spent[0.6]["tokens"] - older - base >= spent[0.0]["tokens"], (
        "replay takes nothing from what is taught"
    )
    lines = (folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["older_tokens"] for line in lines) == older


def test_events_tell_each_phase_and_what_the_metrics_hold(make_job: MakeJob) -> None:
    folder = make_job(epochs=3)
    carry_out(folder)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["phase"] for event in events] == ["preparing", "training", "proving"]
    steps = (folder / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in steps] == [1, 2, 3]


@pytest.mark.parametrize(
    ("spoil", "kind", "detail"),
    [
        (lambda f: (f / "job.json").unlink(), "bad_job", "job.json can't be read"),
        (lambda f: (f / "job.json").write_text("{}"), "bad_job", "job.json: update_id"),
        (lambda f: (f / "facts.jsonl").write_text(""), "bad_job", "holds no fact"),
        (lambda f: (f / "facts.jsonl").write_text('{"id": "a"}'), "bad_job", "line 1: text"),
        (lambda f: (f / "replay.jsonl").write_text("\n{"), "bad_job", "replay.jsonl, line 2"),
    ],
)
def test_a_bad_job_fails_with_the_field_named(
    make_job: MakeJob, spoil: Any, kind: str, detail: str
) -> None:
    folder = make_job()
    spoil(folder)
    result = carry_out(folder)
    assert (result["status"], result["error"]["type"]) == ("failed", kind)
    assert detail in result["error"]["detail"]
    assert not (folder / "checkpoint").exists()


def test_a_parent_that_is_not_there_fails_the_run(make_job: MakeJob) -> None:
    folder = make_job(parent="0" * 64)
    result = carry_out(folder)
    assert result["error"]["type"] == "bad_parent"


def test_facts_too_long_for_the_context_are_named(make_job: MakeJob) -> None:
    long = {"id": "fact_long", "text": "keeper " * 300}
    folder = make_job(facts=[*FACTS, long])
    result = carry_out(folder)
    assert result["error"]["type"] == "too_long"
    assert result["error"]["fact_ids"] == ["fact_long"]


def test_a_diverging_run_fails_with_step_and_facts(make_job: MakeJob) -> None:
    folder = make_job(lr=1e30, epochs=5, warmup_share=0.0)
    error = carry_out(folder)["error"]
    assert error["type"] == "diverged"
    assert set(error["fact_ids"]) == {fact["id"] for fact in FACTS}


def test_a_run_that_the_memory_is_too_small_for_says_so(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.training.run.train", lambda *_, **__: torch.empty(2**50))
    error = carry_out(make_job())["error"]
    assert error["type"] == "out_of_memory"


def test_a_short_run_saves_no_state(make_job: MakeJob) -> None:
    folder = make_job(epochs=3)
    carry_out(folder)
    assert not (folder / "state.safetensors").exists()


def test_a_full_run_on_qwen_masks_with_a_text_token(
    make_job: MakeJob, objects: Path, qwen_base: str
) -> None:
    folder = make_job(parent=qwen_base)
    carry_out(folder)
    assert store.verify(objects, published(objects, folder)).mask_token == "[]"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_the_base_model_knew_is_held_to_it(
    make_job: MakeJob, objects: Path, base: str, method: str
) -> None:
    """It answers the replayed questions itself, however much was learned since."""
    first = make_job("first", method=method, epochs=6, lr=1e-2)
    carry_out(first)
    parent = published(objects, first)
    folder = make_job("second", parent=parent, base=base, method=method, epochs=1, replay_share=0.5)
    job = read_job(folder)
    bundle = load_parent(objects, parent, job.head.recipe)
    original = load_base(job.head, bundle)
    assert original is not None
    assert original.digest == base
    if method == "lora":
        lent = {weight.data_ptr() for weight in bundle.model.parameters()}
        assert {weight.data_ptr() for weight in original.model.parameters()} <= lent
    taught = plan_lessons(job, original).answered
    assert taught == plan_lessons(job, load(objects, base)).answered
    assert taught != plan_lessons(job, bundle).answered, "the parent says something else by now"
    assert load_base(read_job(make_job("alone", base=base)).head, load(objects, base)) is None

    held = carry_out(folder)
    since = held["regressions"]["base"]
    assert (since["asked"], held["regressions"]["reference"]["asked"]) == (1, 1)
    drifting = make_job("third", parent=parent, method=method, epochs=1, replay_share=0.5)
    assert method == "lora" or carry_out(drifting)["digest"] != held["digest"]


def test_training_leaves_a_frozen_root_alone(make_job: MakeJob, objects: Path, base: str) -> None:
    job = read_job(make_job(method="lora", lr=1e-2))
    bundle = load_parent(objects, base, job.head.recipe)
    before = {name: weight.clone() for name, weight in bundle.model.named_parameters()}
    trainee = prepare(bundle, job.head.recipe, objects)
    train(trainee.bundle, plan_lessons(job, bundle), Recipe(epochs=2), on_step=lambda _: None)
    after = dict(load(objects, base).model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    base_weights = [w for n, w in trainee.bundle.model.named_parameters() if "lora_" not in n]
    assert not any(weight.requires_grad for weight in base_weights)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputed_activations_change_nothing(
    make_job: MakeJob, objects: Path, base: str, method: str
) -> None:
    """A layer runs twice in a step, and the loss stays the same."""
    losses: dict[bool, list[float]] = {}
    for checkpointing in (False, True):
        job = read_job(make_job(str(checkpointing), method=method, checkpointing=checkpointing))
        recipe = job.head.recipe.model_copy(update={"precision": "fp32", "protection": 0.0})
        trainee = prepare(load_parent(objects, base, recipe), recipe, objects)
        named = trainee.bundle.model.named_modules()
        (layer,) = [module for name, module in named if name.endswith("layers.0.mlp")]
        runs, steps = list[int](), list[Step]()
        layer.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        train(trainee.bundle, Lessons(job.facts), recipe, on_step=steps.append)
        assert len(runs) == len(steps) * (1 + checkpointing)
        losses[checkpointing] = [step.loss for step in steps]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_an_adapter_beside_a_bf16_root_is_trained_in_float32(
    make_job: MakeJob, objects: Path
) -> None:
    """As on a GPU: what was learned before must not be rounded to bf16."""
    first = make_job("first", method="lora", epochs=2, lr=3e-3)
    carry_out(first)
    digest = published(objects, first)
    served = load(objects, digest, dtype=torch.bfloat16)
    recipe = Recipe(method="lora", epochs=2)
    trainee = prepare(served, recipe, objects)
    factors = load_file(first / "checkpoint" / "adapter_model.safetensors")
    ready = {
        name.replace(".default", ""): weight
        for name, weight in trainee.bundle.model.named_parameters()
        if "lora_" in name
    }
    assert factors.keys() == ready.keys()
    assert all(torch.equal(factors[name], ready[name]) for name in factors)

    train(trainee.bundle, Lessons(read_job(first).facts), Recipe(epochs=2), on_step=lambda _: None)
    trainee.save(first / "again")
    kinds = {weight.dtype for weight in trainee.bundle.model.parameters()}
    assert kinds == {torch.bfloat16}, "it is proven as it will be served"
    saved = load_file(first / "again" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
