"""What is measured about serving; each measure returns figures beside their goals."""

import asyncio
import time
from collections.abc import Sequence

import httpx
import torch

from app.lm import chat as chats
from app.lm.loading import load
from app.prompts import ask
from tasks.bench.deployment import Deployment
from tasks.bench.figures import Figure, Sizes, questions, reference
from tasks.bench.load import Reply, ask_all, chat, meanwhile, median_ms, qa, quantile

CLIENTS = 32
SWAP_CLIENTS = 8
SWAP_QUESTIONS = 25


async def throughput(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Compare the engine under many clients with `generate`, one question at a time."""
    asked = questions(sizes.samples)
    url, digest = running.settings.engine_url, running.digests[0]
    await ask_all(chat(url, digest), asked[:CLIENTS], CLIENTS)
    began = time.perf_counter()
    replies = await ask_all(chat(url, digest), asked, CLIENTS)
    together = len(asked) / (time.perf_counter() - began)
    one_by_one = asked[: max(10, len(asked) // 4)]
    began = time.perf_counter()
    texts = await asyncio.to_thread(_generate, running, one_by_one)
    alone = len(one_by_one) / (time.perf_counter() - began)
    found = {reply.question: reply.body["choices"][0]["message"]["content"] for reply in replies}
    same = sum(found[question] == text for question, text in texts.items())
    return [
        Figure(f"engine, {CLIENTS} clients", f"{together:.0f} answers/s"),
        Figure("`generate`, one at a time", f"{alone:.1f} answers/s"),
        Figure("ratio", f"{together / alone:.1f}x", ">= 8x", together >= 8 * alone),
        Figure("the same texts", f"{same} of {len(texts)}", "all", same == len(texts)),
    ]


def _generate(running: Deployment, asked: Sequence[str]) -> dict[str, str]:
    bundle = load(running.settings.store, running.digests[0])
    texts = {}
    for question in asked:
        prompt = torch.tensor([chats.encode_chat(bundle.tokenizer, ask(question))])
        with torch.inference_mode():
            out = bundle.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
            )
        text = bundle.tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
        texts[question] = text.strip()
    return texts


async def swaps(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Ask all the time while versions are activated and rolled back; compare with quiet times."""
    known = [await _texts(running, digest) for digest in running.digests]
    kinds = [{version[question] for version in known} for question in known[0]]
    told_apart = sum(len(texts) == len(known) for texts in kinds)
    send, asked = qa(running.urls, overlay=False), list(known[0])
    many = [asked[number % len(asked)] for number in range(sizes.requests)]
    quiet = await ask_all(send, many[: len(many) // 2], SWAP_CLIENTS, running.headers())
    before = running.memory_mb()
    replies, done = await _ask_while_swapping(running, many, sizes.swaps)
    after = running.memory_mb()
    failed = sum(reply.status >= 500 for reply in replies)
    wrong = sum(_disagrees(reply, running.digests, known) for reply in replies)
    served = {reply.body["version"] for reply in replies if reply.status == 200}
    calm, busy = (quantile([r.seconds for r in each], 0.99) for each in (quiet, replies))
    grown = ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f} MiB" for name in before)
    flat = all(after[name] <= 1.1 * before[name] + 10 for name in before)
    return [
        Figure("questions that tell the four versions apart", f"{told_apart} of {len(asked)}"),
        Figure("answers during swaps", f"{len(replies)}, {done} swaps, {len(served)} versions"),
        Figure("5xx", str(failed), "0", failed == 0),
        Figure("text, digest or version disagree", str(wrong), "0", wrong == 0),
        Figure(
            "p99 quiet / during swaps", f"{calm:.0f} / {busy:.0f} ms", "<= 2x", busy <= 2 * calm
        ),
        Figure("memory before / after", grown, "flat", flat),
    ]


async def _texts(running: Deployment, digest: str) -> dict[str, str]:
    asked = questions(SWAP_QUESTIONS)
    replies = await ask_all(chat(running.settings.engine_url, digest), asked, 1)
    return {
        reply.question: reply.body["choices"][0]["message"]["content"].strip() for reply in replies
    }


async def _ask_while_swapping(
    running: Deployment, many: Sequence[str], swaps: int
) -> tuple[list[Reply], int]:
    """Spread so many activations and rollbacks over the time that the questions take."""
    done = 0
    pause = 0.0

    async with httpx.AsyncClient(headers=running.headers(), timeout=60) as http:

        async def swap() -> None:
            nonlocal done
            url = running.urls[done % len(running.urls)]
            if done % 3 == 2:
                answer = await http.post(f"{url}/v1/rollback", json={"reason": "bench"})
            else:
                version = 1 + (done // 3 + done) % (len(running.digests) - 1)  # never current's
                path = f"{url}/v1/checkpoints/{version}/activate"
                answer = await http.post(path, json={"reason": "bench"})
            answer.raise_for_status()
            done += 1
            await asyncio.sleep(pause if done < swaps else 3600)

        began = time.perf_counter()
        send, part = qa(running.urls, overlay=False), len(many) // 10
        replies = await ask_all(send, many[:part], SWAP_CLIENTS, running.headers())
        pause = (time.perf_counter() - began) * 8 / swaps
        async with meanwhile(swap):
            replies += await ask_all(send, many[part:], SWAP_CLIENTS, running.headers())
    return replies, done


def _disagrees(reply: Reply, digests: Sequence[str], known: Sequence[dict[str, str]]) -> bool:
    if reply.status != 200:
        return False
    version = reply.body["version"]
    right = (digests[version], known[version][reply.question])
    return (reply.body["checkpoint"], reply.body["answer"]) != right


async def overlay(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Submit facts, ask about them at once, and ask what has nothing to do with them."""
    rows = reference()
    about, others = rows[: sizes.facts], [row["question"] for row in rows[-sizes.facts :]]
    send = qa(running.urls)
    plain = await ask_all(send, others, 4, running.headers())
    async with httpx.AsyncClient(headers=running.headers(), timeout=60) as http:
        for row in about:
            fact = {"text": row["text"]}
            answer = await http.post(f"{running.urls[0]}/v1/facts", json=fact)
            answer.raise_for_status()
    asked = {row["question"]: row["text"] for row in about}
    found = await ask_all(send, list(asked), 1, running.headers())
    again = await ask_all(send, others, 4, running.headers())
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
    """Ask the API and the engine the same questions, in turn, and compare the medians."""
    asked = [row["question"] for row in reference()[-sizes.samples // 2 :]]
    async with httpx.AsyncClient(headers=running.headers()) as http:
        current = (await http.get(f"{running.urls[0]}/v1/models/current")).json()["root"]
    api, engine = qa(running.urls[:1]), chat(running.settings.engine_url, current)
    figures = []
    for clients in (1, CLIENTS):
        seen: dict[str, list[Reply]] = {"api": [], "engine": []}
        for start in range(0, len(asked), 2 * clients):  # in turn, so that both meet the same load
            part = asked[start : start + 2 * clients]
            seen["engine"] += await ask_all(engine, part, clients)
            seen["api"] += await ask_all(api, part, clients, running.headers())
        added = median_ms(seen["api"]) - median_ms(seen["engine"])
        name = f"p50 added by the API, {clients} client{'s' * (clients > 1)}"
        value = f"{added:.1f} ms (engine alone {median_ms(seen['engine']):.1f} ms)"
        goal = ("<= 5 ms", added <= 5) if clients == 1 else ("reported", None)
        figures.append(Figure(name, value, *goal))
    return figures


async def killed(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Kill the engine under load; see what clients get and how long it takes."""
    asked, at = questions(sizes.samples), 0.0
    replies: list[Reply] = []
    send = qa(running.urls, overlay=False)

    async def clients() -> None:
        while not at or not any(r.status == 200 and r.began > at for r in replies):
            replies.extend(await ask_all(send, asked[:SWAP_CLIENTS], 4, running.headers()))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(clients())
    await asyncio.sleep(2)
    running.kill_engine()
    at = time.perf_counter()
    await asyncio.wait_for(task, 60)
    back = min(r.began + r.seconds for r in replies if r.status == 200 and r.began > at) - at
    lost = [reply for reply in replies if reply.status != 200]
    honest = sum(reply.status == 503 and bool(reply.retry_after) for reply in lost)
    return [
        Figure("engine killed with -9: serving again", f"{back:.1f} s", "<= 10 s", back <= 10),
        Figure(
            "meanwhile 503 with Retry-After", f"{honest} of {len(lost)}", "all", honest == len(lost)
        ),
    ]
