"""Questions while versions are swapped and, then also, while an update is trained."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from tasks.bench.deployment import Deployment
from tasks.bench.figures import Figure, Sizes, examples, questions
from tasks.bench.load import Reply, ask_all, chat, meanwhile, qa, quantile

CLIENTS = 8
QUESTIONS = 40
SHORT = 12  # tokens: enough to tell the versions apart
PATIENCE_S = 900.0


@dataclass
class Watch:
    """What each version answers, and the replies that are held against it."""

    running: Deployment
    known: list[dict[str, str]]
    asked: list[str] = field(default_factory=list)  # what every version answers in its own words
    swaps: int = 0

    def find_apart(self) -> None:
        """Keep the questions that tell all versions apart, so that no mix-up can hide."""
        kinds = {q: {version[q] for version in self.known} for q in self.known[0]}
        self.asked = [q for q, texts in kinds.items() if len(texts) == len(self.known)]

    async def ask(self, count: int) -> list[Reply]:
        """Ask so many questions of current, of both API processes in turn."""
        many = [self.asked[number % len(self.asked)] for number in range(count)]
        send = qa(self.running.urls, overlay=False, max_tokens=SHORT)
        return await ask_all(send, many, CLIENTS, self.running.headers())

    def disagrees(self, reply: Reply) -> bool:
        """Say whether text, digest and version of an answer are not of one checkpoint."""
        if reply.status != 200:
            return False
        version = reply.body["version"]
        right = (self.running.digests[version], self.known[version][reply.question])
        return (reply.body["checkpoint"], reply.body["answer"]) != right

    async def swap(self) -> None:
        """Activate another version or, every third time, roll back."""
        if self.swaps % 3 == 2:
            await self.running.roll_back()
        else:  # never the one that is current
            others = len(self.running.digests) - 1
            await self.running.activate(1 + (self.swaps // 3 + self.swaps) % others)
        self.swaps += 1


async def swaps(running: Deployment, sizes: Sizes) -> list[Figure]:
    """Ask all the time: quietly, while versions are swapped, and while an update is trained."""
    watch = Watch(running, [await _texts(running, digest) for digest in running.digests])
    watch.find_apart()
    await running.activate(1)
    await watch.ask(sizes.requests // 20)  # the first ones pay for connections and caches
    calm, seconds = await _timed(watch.ask(sizes.requests // 4))
    before = running.memory_mb()
    pace = 0.6 * sizes.requests * seconds / len(calm) / sizes.swaps
    swapped, seconds = await _timed(_while_swapping(watch, sizes, pace))
    done = watch.swaps
    rate = len(swapped) / seconds
    trained, status, slowed = await _while_training(watch, sizes, pace, len(swapped))
    replies = [*swapped, *trained]
    failed = sum(reply.status >= 500 for reply in replies)
    wrong = sum(watch.disagrees(reply) for reply in replies)
    served = {reply.body["version"] for reply in replies if reply.status == 200}
    quiet, busy, hard = (
        quantile([reply.seconds for reply in part], 0.99) for part in (calm, swapped, trained)
    )
    return [
        _apart(watch),
        Figure(
            "answers; activations and rollbacks meanwhile",
            f"{len(replies)}; {watch.swaps}; {len(served)} versions answered",
            f">= {sizes.requests}; >= {sizes.swaps}",
            len(replies) >= sizes.requests and done >= sizes.swaps,
        ),
        Figure("5xx", str(failed), "0", failed == 0),
        Figure("text, digest or version disagree", str(wrong), "0", wrong == 0),
        Figure(
            "p99 quiet / during swaps", f"{quiet:.0f} / {busy:.0f} ms", "<= 2x", busy <= 2 * quiet
        ),
        Figure(
            "one update trained meanwhile",
            f"{status}; answers/s {rate:.0f} -> {slowed:.0f}, "
            f"{100 * (1 - slowed / rate):.0f} % lost to it; p99 {hard:.0f} ms",
            "succeeded; reported",
            status == "succeeded",
        ),
        _memory(before, running.memory_mb()),
    ]


def _apart(watch: Watch) -> Figure:
    name = f"questions that tell the {len(watch.known)} versions apart, the only ones asked"
    count, least = len(watch.asked), QUESTIONS // 2
    return Figure(name, f"{count} of {QUESTIONS}", f">= {least}", count >= least)


def _memory(before: dict[str, float], after: dict[str, float]) -> Figure:
    grown = ", ".join(f"{name} {before[name]:.0f} -> {after[name]:.0f} MiB" for name in before)
    flat = all(after[name] <= 1.1 * before[name] + 10 for name in before)
    return Figure("memory before / after these answers", grown, "flat", flat)


async def _texts(running: Deployment, digest: str) -> dict[str, str]:
    send = chat(running.settings.engine_url, digest, SHORT)
    replies = await ask_all(send, questions(QUESTIONS), 1)
    return {
        reply.question: reply.body["choices"][0]["message"]["content"].strip() for reply in replies
    }


async def _timed(work: Awaitable[list[Reply]]) -> tuple[list[Reply], float]:
    began = time.perf_counter()
    replies = await work
    return replies, time.perf_counter() - began


def _swapping(watch: Watch, pace: float) -> Callable[[], Awaitable[None]]:
    async def swap() -> None:
        await watch.swap()
        await asyncio.sleep(pace)

    return swap


async def _while_swapping(watch: Watch, sizes: Sizes, pace: float) -> list[Reply]:
    """Ask six tenths of the questions, and on until all swaps are done."""
    replies: list[Reply] = []
    async with meanwhile(_swapping(watch, pace)):
        while len(replies) < 0.6 * sizes.requests or watch.swaps < sizes.swaps:
            replies += await watch.ask(max(CLIENTS, sizes.requests // 20))
    return replies


async def _while_training(
    watch: Watch, sizes: Sizes, pace: float, asked: int
) -> tuple[list[Reply], str, float]:
    """Ask the rest, and on until the update has ended; return its status and the rate till then."""
    replies: list[Reply] = []
    rate = 0.0
    with watch.running.working():
        async with httpx.AsyncClient(headers=watch.running.headers(), timeout=60) as http:
            update = await _start_update(http, watch.running.urls[0], sizes)
            began = time.perf_counter()
            async with meanwhile(_swapping(watch, pace)):
                while not rate or asked + len(replies) < sizes.requests:
                    replies += await watch.ask(max(CLIENTS, sizes.requests // 50))
                    spent = time.perf_counter() - began
                    status = (await http.get(update)).json()["status"]
                    if not rate and (status not in ("queued", "running") or spent > PATIENCE_S):
                        rate = len(replies) / spent
    return replies, status, rate


async def _start_update(http: httpx.AsyncClient, url: str, sizes: Sizes) -> str:
    """Post the example facts and open an update that is never activated; return its address."""
    facts = await http.post(f"{url}/v1/facts/batch", json={"facts": examples()})
    ids = [item["fact"]["id"] for item in facts.raise_for_status().json()["data"]]
    recipe = {"epochs": sizes.epochs}
    body = {"fact_ids": ids, "activation": "never", "recipe": recipe}
    opened = (await http.post(f"{url}/v1/updates", json=body)).raise_for_status().json()
    return f"{url}/v1/updates/{opened['id']}"
