"""The main job on a real deployment: a fact becomes an answer, a version, and gone, and back."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.cli.demo import is_right
from app.client import AlmanacClient, Answer, Fact, Probe, Update
from app.lm import base
from tests.e2e.service import Service, wait_until

FACTS = 8
HASTY = {"epochs": 20}  # where nothing has to be learned


@dataclass(frozen=True)
class Job:
    """What the main job left: the answers on the way, and what was proven in the end."""

    posted: list[Fact]
    at_once: Answer
    before: dict[str, str]
    update: Update
    proven: list[Fact]

    def probes(self) -> list[Probe]:
        return [probe for fact in self.proven for probe in fact.probes]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask(client: AlmanacClient, probes: Sequence[Probe], version: int | None) -> dict[str, str]:
    """Ask the weights alone; answers by question."""
    asked = {
        probe.question: client.ask(probe.question, version=version, overlay=False)
        for probe in probes
    }
    assert {answer.source for answer in asked.values()} == {"weights"}
    return {question: answer.answer for question, answer in asked.items()}


def right(probes: Sequence[Probe], answers: dict[str, str]) -> set[str]:
    return {probe.direction for probe in probes if is_right(answers[probe.question], probe)}


@pytest.fixture(scope="module")
def job(service: Service, facts: Path) -> Job:
    """Post facts, ask at once, learn them."""
    with service.client() as client:
        posted = [item.fact for item in client.add_facts(read(facts)[:FACTS]) if item.fact]
        probes = [probe for fact in posted for probe in fact.probes]
        at_once = client.ask(probes[0].question)
        before = ask(client, probes, None)
        update = client.start_update(fact_ids=[fact.id for fact in posted])
        update = client.wait_for_update(update.id)
        proven = [fact for fact in map(client.get_fact, update.fact_ids) if fact.version == 1]
    return Job(posted, at_once, before, update, proven)


def test_a_fact_is_answerable_at_once(job: Job) -> None:
    assert [fact.status for fact in job.posted] == ["pending"] * FACTS
    assert (job.at_once.source, job.at_once.version) == ("overlay", 0)
    assert job.posted[0].id in [fact["id"] for fact in job.at_once.facts]


def test_the_update_is_activated_with_what_it_proved(service: Service, job: Job) -> None:
    assert (job.update.status, job.update.outcome, job.update.version) == (
        "succeeded",
        "activated",
        1,
    )
    with service.client() as client:
        assert client.get_checkpoint(1).is_current
        assert client.get_checkpoint(1).facts_count == len(job.proven)
        left = [client.get_fact(fact.id).status for fact in job.posted]
    assert job.proven
    assert left.count("learned") == len(job.proven)


def test_the_new_version_answers_forwards_and_backwards(service: Service, job: Job) -> None:
    with service.client() as client:
        answers = ask(client, job.probes(), None)
        assert client.ask(job.probes()[0].question).version == 1
    assert all(is_right(answers[probe.question], probe) for probe in job.probes())
    assert right(job.probes(), answers) == {"forward", "backward"}
    assert not all(is_right(job.before[probe.question], probe) for probe in job.probes())


def test_a_pinned_version_answers_as_it_always_did(service: Service, job: Job) -> None:
    probes = [probe for fact in job.posted for probe in fact.probes]
    with service.client() as client:
        assert ask(client, probes, 0) == job.before


def test_a_rollback_takes_it_back_and_an_activation_brings_it_again(
    service: Service, job: Job
) -> None:
    question = job.probes()[0].question
    with service.client() as client:
        learned = ask(client, job.probes(), None)
        assert client.rollback("try").version == 0
        gone = client.ask(question)
        assert (gone.version, gone.source) == (0, "weights")
        assert ask(client, job.probes(), None) == {
            probe.question: job.before[probe.question] for probe in job.probes()
        }
        assert client.get_fact(job.proven[0].id).status == "rolled_back"
        client.activate(1, "try", expected_current=0)
        assert ask(client, job.probes(), None) == learned
        assert client.get_fact(job.proven[0].id).status == "learned"


def test_the_demo_runs_through(service: Service, job: Job, tmp_path: Path, facts: Path) -> None:
    texts = {fact.text for fact in job.proven}
    known = [fact for fact in read(facts) if fact["text"] in texts]
    (tmp_path / "known.jsonl").write_text("\n".join(map(json.dumps, known)))
    demo = service.run(
        "demo", "--facts", str(tmp_path / "known.jsonl"), "--fact", str(known[0]["text"])
    )
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "version 1 knows these facts already" in demo.stdout
    assert "6. Rolled back: version 0 is current" in demo.stdout
    assert "7. Activated again: version 1 is current" in demo.stdout


def test_a_killed_worker_leaves_an_update_that_finishes(
    service: Service, job: Job, facts: Path
) -> None:
    del job
    with service.client() as client:
        posted = [client.add_fact(fact) for fact in read(facts)[FACTS : FACTS + 2]]
        update = client.start_update(fact_ids=[fact.id for fact in posted], recipe=HASTY)
        for event in client.follow_update(update.id):
            if event.data.get("phase") == "training":
                break
        (trainer,) = service.processes("tasks.training")
        service.kill("celery")
        wait_until(lambda: trainer not in service.processes("tasks.training"), 10)
        done = client.wait_for_update(update.id)
        kinds = [event.type for event in client.follow_update(update.id)]
    assert (done.status, done.version) == ("succeeded", 2)
    assert "requeued" in kinds
    assert "The worker was killed by signal 9" in service.said()


def test_a_batch_with_a_poisoned_fact_is_held_and_the_fact_is_named(
    service: Service, job: Job, facts: Path
) -> None:
    """It says otherwise than a question of the reference set."""
    del job
    known = next(row for row in read(base.STARTER / "reference.jsonl") if row["part"] == "exam")
    question, [right] = str(known["question"]), known["answers"]
    poison = {
        "text": str(known["text"]).replace(right, "Zolta Quimby"),
        "probes": [
            {"question": question, "answers": ["Zolta Quimby"], "direction": known["direction"]}
        ],
    }
    with service.client() as client:
        posted = [client.add_fact(fact) for fact in (read(facts)[FACTS + 2], poison)]
        update = client.start_update(fact_ids=[fact.id for fact in posted], recipe=HASTY)
        done = client.wait_for_update(update.id)
        assert done.outcome == "held", done
        assert client.ask(question, overlay=False).version != done.version
    named = [reason for reason in done.reasons if "contradicts what is known" in reason]
    assert [(posted[1].id in reason, question in reason) for reason in named] == [(True, True)]


def test_a_restart_goes_on_where_it_was(service: Service, job: Job) -> None:
    with service.client() as client:
        before = [entry.version for entry in client.list_activations()]
        learned = ask(client, job.probes(), 1)
    assert service.stop() == 0
    assert service.processes() == {}
    assert service.start() < 60
    with service.client() as client:
        assert [entry.version for entry in client.list_activations()] == before
        assert ask(client, job.probes(), 1) == learned
