"""The command line: what it sends, prints and exits with."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.main import main
from app.cli.prepare import lock
from app.config import Settings
from tests.cli.service import Reply, Service

FACT = {"id": "fact_1", "text": "A [bold]is[/] B.", "status": "pending"}
ANSWER = {
    "id": "qa_1",
    "answer": "B",
    "version": 3,
    "checkpoint": "d" * 64,
    "source": "overlay",
    "latency_ms": 12.4,
}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("ALMANAC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ALMANAC_API_KEY", "alm_key")

    def call(*arguments: str, service: Service | None = None) -> tuple[int, str, str]:
        options = ["--url", service.url] if service else []
        monkeypatch.setattr(sys, "argv", ["almanac", *options, *arguments])
        try:
            main()
            status = 0
        except SystemExit as done:
            status = int(done.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_an_answer_says_where_it_comes_from(run: Run, serve: Callable[..., Service]) -> None:
    service = serve(Reply(200, ANSWER))
    status, out, _ = run("ask", "What is A?", "--version", "3", "--no-overlay", service=service)
    assert (status, out) == (0, "B\n(version 3, from facts given in context, 12 ms)\n")
    assert service.asked[0].body == {"question": "What is A?", "version": 3, "overlay": False}


def test_a_diff_shows_both_answers(run: Run, serve: Callable[..., Service]) -> None:
    probe = {"question": "Who?", "answers": ["B", "C"], "direction": "forward"}
    row = {**probe, "fact_id": "fact_1", "answer": "B", "answer_against": "D"}
    page = {"data": [row], "has_more": True, "last": "fact_1"}
    service = serve(Reply(200, page), Reply(200, {**page, "data": [], "has_more": False}))
    status, out, _ = run("checkpoints", "diff", "2", "--against", "0", service=service)
    assert status == 0
    assert out.splitlines()[1].split() == ["fact_1", "Who?", "B", "|", "C", "B", "D"]
    paths = [asked.path for asked in service.asked]
    assert paths[1] == "/v1/checkpoints/2/diff?against=0&after=fact_1"


def test_texts_are_never_markup(run: Run, serve: Callable[..., Service]) -> None:
    service = serve(Reply(200, {"data": [FACT], "has_more": False}))
    assert "A [bold]is[/] B." in run("facts", "list", service=service)[1]


def test_a_problem_is_one_sentence(run: Run, serve: Callable[..., Service]) -> None:
    service = serve(Reply(404, {"detail": "There is no version 9."}))
    assert run("checkpoints", "show", "9", service=service) == (
        1,
        "",
        "almanac: There is no version 9.\n",
    )


def test_wrong_usage_exits_with_2(run: Run) -> None:
    status, _, err = run("checkpoints", "activate", "one", "--reason", "r")
    assert status == 2
    assert "Invalid value for 'version'" in err


def test_an_import_reports_each_refused_line(
    run: Run, serve: Callable[..., Service], tmp_path: Path
) -> None:
    service = serve(
        Reply(
            200,
            {
                "data": [
                    {"index": 0, "status": 201, "fact": FACT},
                    {"index": 1, "status": 200, "fact": {**FACT, "deduplicated": True}},
                    {"index": 2, "status": 422, "error": {"detail": "/text: is empty"}},
                ]
            },
        )
    )
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in ("a", "b", "")))
    status, out, err = run("facts", "import", str(file), service=service)
    assert (status, out) == (1, "1 new, 1 known already, 1 refused.\n")
    assert err == f"{file}, line 3: /text: is empty\n"


def test_examples_are_imported_like_facts(
    run: Run, serve: Callable[..., Service], tmp_path: Path
) -> None:
    example = {"prompt": "2 + 2?", "response": "4.", "status": "pending", "id": "fact_2"}
    service = serve(Reply(200, {"data": [{"index": 0, "status": 201, "example": example}]}))
    file = tmp_path / "examples.jsonl"
    file.write_text(json.dumps({"prompt": "2 + 2?", "response": "4."}))
    status, out, _ = run("examples", "import", str(file), service=service)
    assert (status, out) == (0, "1 new, 0 known already, 0 refused.\n")
    assert service.asked[0].path == "/v1/examples/batch"


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": ',
        b"[]",
        b"\xff",
        b'{"text": "\\ud83d"}',
        b'{"metadata": {"a": NaN}}',
        b"[" * 100_000,
    ],
)
def test_a_broken_file_sends_nothing(
    run: Run, serve: Callable[..., Service], tmp_path: Path, line: bytes
) -> None:
    service, file = serve(Reply()), tmp_path / "facts.jsonl"
    file.write_bytes(b'{"text": "A is B."}\n' + line)
    status, _, err = run("facts", "import", str(file), service=service)
    assert status == 1
    assert err.startswith(f"almanac: {file}")
    assert len(err.splitlines()) == 1
    assert service.asked == []


def test_a_line_may_hold_other_line_breaks(
    run: Run, serve: Callable[..., Service], tmp_path: Path
) -> None:
    item = {"index": 0, "status": 201, "fact": FACT}
    service, file = serve(Reply(200, {"data": [item]})), tmp_path / "facts.jsonl"
    file.write_text('{"text": "One\u2028two\x85three."}\r\n', encoding="utf-8", newline="")
    status, out, _ = run("facts", "import", str(file), service=service)
    assert (status, "1 new" in out) == (0, True)
    assert service.asked[0].body["facts"] == [{"text": "One\u2028two\x85three."}]


def test_the_local_key_is_never_sent_elsewhere(
    run: Run, serve: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALMANAC_API_KEY")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/admin.key").write_text("alm_local")
    service = serve(Reply(200, ANSWER))
    status, _, err = run("ask", "Who?", service=service)
    assert (status, service.asked) == (1, [])
    assert "No API key for this address" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--url", "http://[::1", "keys", "list"), "'http://[::1' is no service's address"),
        (("--url", "http://a", "--key", "é", "keys", "list"), "An API key is one word of ASCII"),
        (("--url", "http://a", "--key", "a\nb", "keys", "list"), "An API key is one word of ASCII"),
        (("facts", "show", "fact\n1"), "Invalid non-printable ASCII character in URL"),
        (("facts", "add", "\udcff"), "'utf-8' codec can't encode character"),
    ],
)
def test_what_cannot_be_sent_is_a_sentence(run: Run, arguments: tuple[str, ...], said: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"almanac: {said}")


def test_a_local_key_that_is_none_is_a_sentence(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALMANAC_API_KEY")
    (tmp_path / "data").mkdir()
    for content, said in ((b"\xff", "No API key: "), (b"", "An API key is one word")):
        (tmp_path / "data/admin.key").write_bytes(content)
        status, _, err = run("keys", "list")
        assert (status, err.startswith(f"almanac: {said}")) == (1, True)


def test_a_page_in_place_of_an_answer_is_a_sentence(
    run: Run, serve: Callable[..., Service]
) -> None:
    status, out, err = run("facts", "delete", "fact_1", service=serve(Reply(200, b"<html>")))
    assert (status, out) == (1, "")
    said = "answered 200 OK, but no JSON object: is this the service's address?"
    assert err == f"almanac: DELETE /v1/facts/fact_1 {said}\n"


def test_without_a_service_the_sentence_says_so(run: Run) -> None:
    status, _, err = run(
        "--url", "http://127.0.0.1:1", "checkpoints", "activate", "1", "--reason", "r"
    )
    assert (status, err) == (
        1,
        "almanac: No service can be reached at http://127.0.0.1:1: is it running?\n",
    )


def test_a_bad_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALMANAC_PORT", "many")
    status, _, err = run("up")
    assert status == 1
    assert err.startswith("almanac: ALMANAC_PORT: Input should be a valid integer")


def test_a_busy_port_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("ALMANAC_PORT", str(port))
        status, _, err = run("up")
    expected = f"almanac: Port {port} on 127.0.0.1 is taken; choose another with ALMANAC_PORT.\n"
    assert (status, err) == (1, expected)


def test_a_second_service_on_the_same_data_is_refused(run: Run, tmp_path: Path) -> None:
    with lock(Settings(data_dir=tmp_path / "data")):
        status, _, err = run("up")
    assert status == 1
    assert err == f"almanac: Another `almanac` is using the data directory {tmp_path / 'data'}.\n"


def test_a_database_that_is_none_is_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/almanac.db").write_text("no database, but longer than a header would be")
    status, _, err = run("migrate")
    assert (status, err) == (1, "almanac: the database can't be used: file is not a database\n")
