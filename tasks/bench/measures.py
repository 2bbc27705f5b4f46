"""What is measured about serving; each measure returns figures beside their goals."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import httpx
import torch

from app.lm import chat as chats
from app.lm.engine import Engine, Limits
from app.lm.loading import Bundle, load
from app.lm.wire import ChatRequest, Turn
from app.prompts import ask
from tasks.bench.deployment import Deployment
from tasks.bench.figures import Figure, Sizes, questions, reference
from tasks.bench.load import MAX_TOKENS, Reply, ask_all, chat, median_ms, qa

CLIENTS = 32
FEW = 4
ROUNDS = 5
TIMES = {1: 8, CLIENTS: 2}  # by clients: what one meets is compared within a few milliseconds
PATIENCE_S = 300.0


async def throughput(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Compare the engine under many clients with `generate`, one question at a time.

    Both in this process, with as many threads, in turn: what else runs here slows both.
    """
    asked = questions(sizes.samples)
    alone_asked = asked[: max(8, len(asked) // 8)]
    limits = Limits(running.settings.store, 2**32, CLIENTS, len(asked), 600.0)
    engine, digest = Engine(limits, "cpu"), running.digests[0]
    bundle = load(running.settings.store, digest)
    ratios, together, alone = [], [], []
    try:
        found = await _answer_together(engine, digest, asked)
        for _ in range(ROUNDS):
            began = time.perf_counter()
            await _answer_together(engine, digest, asked)
            together.append(len(asked) / (time.perf_counter() - began))
            began = time.perf_counter()
            texts = await asyncio.to_thread(_generate, bundle, alone_asked)
            alone.append(len(alone_asked) / (time.perf_counter() - began))
            ratios.append(together[-1] / alone[-1])
    finally:
        engine.scheduler.close()
    ratio, same = median(ratios), sum(found[question] == text for question, text in texts.items())
    send = chat(running.settings.engine_url, digest)
    await ask_all(send, asked[:CLIENTS], CLIENTS)
    began = time.perf_counter()
    await ask_all(send, asked, CLIENTS)
    served = len(asked) / (time.perf_counter() - began)
    return [
        Figure("`generate`, one question at a time", f"{median(alone):.1f} answers/s"),
        Figure(f"engine, {CLIENTS} clients, same process", f"{median(together):.0f} answers/s"),
        Figure(f"ratio, median of {ROUNDS} rounds", f"{ratio:.1f}x", ">= 8x", ratio >= 8),
        Figure("the same texts", f"{same} of {len(texts)}", "all", same == len(texts)),
        Figure(f"engine, {CLIENTS} clients over HTTP", f"{served:.0f} answers/s", "reported"),
    ]


async def _answer_together(engine: Engine, digest: str, asked: Sequence[str]) -> dict[str, str]:
    waiting = iter(asked)
    texts: dict[str, str] = {}

    async def client() -> None:
        for question in waiting:
            turn = Turn(role="user", content=question)
            request = ChatRequest(model=digest, messages=[turn], max_tokens=MAX_TOKENS)
            async with engine.job(request) as job:
                texts[question] = await job.finished()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return texts


def _generate(bundle: Bundle, asked: Sequence[str]) -> dict[str, str]:
    texts = {}
    for question in asked:
        prompt = torch.tensor([chats.encode_chat(bundle.tokenizer, ask(question))])
        with torch.inference_mode():
            out = bundle.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
            )
        text = bundle.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
        texts[question] = text.strip()
    return texts


async def overlay(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Submit facts, ask about them at once, and ask what has nothing to do with them."""
    rows = reference()
    about, others = rows[: sizes.facts], [row["question"] for row in rows[-sizes.facts :]]
    await running.activate(0)
    send = qa(running.urls)
    plain = await ask_all(send, others, FEW, running.headers())
    async with httpx.AsyncClient(headers=running.headers(), timeout=60) as http:
        for row in about:
            fact = {"text": row["text"]}
            answer = await http.post(f"{running.urls[0]}/v1/facts", json=fact)
            answer.raise_for_status()
    asked = {row["question"]: row["text"] for row in about}
    found = await ask_all(send, list(asked), 1, running.headers())
    again = await ask_all(send, others, FEW, running.headers())
    right = sum(
        asked[reply.question] in [fact["text"] for fact in reply.body["facts"]] for reply in found
    )
    were = {reply.question: reply.body["answer"] for reply in plain}
    changed = sum(reply.body["answer"] != were[reply.question] for reply in again)
    middle = median_ms(found)
    return [
        Figure(
            "questions about waiting facts that get their fact",
            f"{right} of {len(asked)}",
            ">= 95 %",
            right >= 0.95 * len(asked),
        ),
        Figure("p50 of these, one client", f"{middle:.0f} ms", "<= 200 ms", middle <= 200),
        Figure(
            "unrelated answers changed",
            f"{changed} of {len(again)}",
            "<= 1 %",
            changed <= 0.01 * len(again),
        ),
    ]


async def overhead(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Ask the API and the engine the same questions, in turn; the median of the differences.

    Each question is compared with itself, for answers differ in length much more than the ways to
    them, by the medians of TIMES, for the engine's own time varies by more than is sought.
    Facts wait, so the overlay is searched, and not the base model answers, so facts are attributed.
    """
    asked = [row["question"] for row in reference()[-sizes.samples // 2 :]]
    await running.activate(1)
    api, engine = qa(running.urls[:1]), chat(running.settings.engine_url, running.digests[1])
    figures = []
    for clients, times in TIMES.items():
        direct, through = defaultdict(list), defaultdict(list)
        for _ in range(times):
            for start in range(0, len(asked), 2 * clients):  # in turn: both meet the same load
                part = asked[start : start + 2 * clients]
                for reply in await ask_all(engine, part, clients):
                    direct[reply.question].append(1000 * reply.seconds)
                for reply in await ask_all(api, part, clients, running.headers()):
                    through[reply.question].append(1000 * reply.seconds)
        added = [median(through[question]) - median(alone) for question, alone in direct.items()]
        middle = median(map(median, direct.values()))
        name = f"p50 added by the API, {clients} client{'s' * (clients > 1)}"
        value = f"{median(added):.1f} ms (engine called directly: {middle:.1f} ms)"
        goal = ("<= 5 ms", median(added) <= 5) if clients == 1 else ("reported", None)
        figures.append(Figure(name, value, *goal))
    return figures


async def killed(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Kill the engine under load; see what clients get and how long it takes."""
    asked, at = questions(sizes.samples), 0.0
    replies: list[Reply] = []
    send = qa(running.urls, overlay=False)

    async def clients() -> None:
        while not at or not any(r.status == 200 and r.began > at for r in replies):
            replies.extend(await ask_all(send, asked[: 2 * FEW], FEW, running.headers()))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(clients())
    await asyncio.sleep(2)
    running.kill_engine()
    at = time.perf_counter()
    await asyncio.wait_for(task, PATIENCE_S)
    back = min(r.began + r.seconds for r in replies if r.status == 200 and r.began > at) - at
    lost = [reply for reply in replies if reply.status != 200]
    honest = sum(reply.status == 503 and bool(reply.retry_after) for reply in lost)
    return [
        Figure("engine killed with -9: serving again", f"{back:.1f} s", "<= 10 s", back <= 10),
        Figure(
            "meanwhile 503 with Retry-After", f"{honest} of {len(lost)}", "all", honest == len(lost)
        ),
    ]
