"""The training benchmark: every part is measured, kept, and not measured twice."""

import json
import random
from pathlib import Path

import pytest
import torch

from app.lm.loading import Bundle
from tasks.bench.flops import flops
from tasks.bench.training.__main__ import main
from tasks.bench.training.arithmetic import trainable
from tasks.bench.training.plain import Paper, mask, train_plainly
from tasks.bench.training.plan import TOY
from tasks.bench.training.proof import steps_to
from tasks.bench.training.subjects import randomize
from tests.training.conftest import FACTS, _one_thread, base, bundle, objects, qwen_base

__all__ = ["_one_thread", "base", "bundle", "objects", "qwen_base"]
MEASURES = ("step time: toy", "peak memory: toy", "step time: starter", "facts, ", "cost per fact")


def test_every_part_is_reported_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--quick", "--device", "cpu", "--threads", "1", "--folder", str(tmp_path)]
    assert main(options) == 0
    page = capsys.readouterr().out
    assert page == (tmp_path / "training.md").read_text()
    assert all(f"| {measure}" in page or measure in page for measure in MEASURES)
    assert page.count("GEMM peak") == 2
    assert "GPU" not in page
    lines = (tmp_path / "training.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines[1:]]
    assert keys[:2] == ["step wide", "step starter"]

    assert main([*options, "--part", "scale"]) == 0
    assert (tmp_path / "training.jsonl").read_text().splitlines() == lines, "nothing was done again"
    table = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| ")]
    assert table[1] in page
    assert len(table) == 2
    assert main([*options, "--level", "0.5"]) == 1
    assert "another experiment's results" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is measured")
def test_without_a_gpu_its_part_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--device", "cuda", "--folder", str(tmp_path)]) == 0
    assert "skipped: torch finds no CUDA device" in capsys.readouterr().out


def test_the_plain_loop_learns(bundle: Bundle) -> None:
    texts = [str(fact["text"]) for fact in FACTS]
    steps: list[int] = []
    before = loss_of(bundle, texts[0])
    paper = Paper(lr=3e-3, epochs=4, batch_size=2)
    train_plainly(bundle, texts, paper, lambda: steps.append(1))
    assert len(steps) == 4 * 2
    assert loss_of(bundle, texts[0]) < before


def loss_of(bundle: Bundle, text: str) -> float:
    ids = bundle.tokenizer.encode(text, add_special_tokens=False)
    example = mask(bundle, ids, 0.5, random.Random(0))
    rows = torch.tensor([example.input_ids]), torch.tensor([example.labels])
    with torch.no_grad():
        return float(bundle.model(input_ids=rows[0], labels=rows[1]).loss)


def test_arithmetic_counts_what_is_trained(bundle: Bundle) -> None:
    full = randomize(bundle, TOY, "cpu", torch.float32)
    tokens, targets = 10, 3
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 96  # queries, keys, values, output, MLP
    attention = 6 * 32 * tokens**2
    expected = 6 * layer * tokens + 6 * 32 * 8192 * targets + attention
    assert flops(full.model, [(tokens, targets)]) == expected
    adapted = trainable(full, "lora")
    factors = sum(weight.numel() for weight in adapted.model.parameters() if weight.requires_grad)
    frozen = 4 * layer * tokens + 4 * 32 * 8192 * targets + attention
    assert flops(adapted.model, [(tokens, targets)]) == frozen + 6 * factors * tokens


def test_a_level_is_reached_where_it_was_first_seen() -> None:
    curve = {"points": [{"step": 10, "share": 0.2}, {"step": 20, "share": 0.6}]}
    assert [steps_to(curve, level) for level in (0.1, 0.6, 0.7)] == [10, 20, float("inf")]
