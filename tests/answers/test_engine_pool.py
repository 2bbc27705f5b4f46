"""Several engines: least load, one that fails, one that comes back, proofs on all."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from app.config import Settings
from app.engine_client import EngineClient
from app.engine_pool import EnginePool, connect
from app.errors import Unavailable
from app.prompts import ask
from tests.answers.standin import Server, Standin, refusal

DIGEST = "a" * 64
MESSAGES = ask("say: one two three")
PATH = f"/store/objects/{DIGEST}"


class Engines:
    """Two stand-ins that can be stopped and started again under their addresses."""

    def __init__(self) -> None:
        self.standins = [Standin(), Standin()]
        for standin in self.standins:
            standin.loaded.add(DIGEST)
        self.servers = [Server(standin.app) for standin in self.standins]
        self.urls = [server.url for server in self.servers]

    def stop(self, number: int) -> None:
        self.servers[number].close()

    def start(self, number: int) -> None:
        port = int(self.urls[number].rpartition(":")[2])
        self.servers[number] = Server(self.standins[number].app, port)

    def asked(self) -> list[int]:
        return [len(standin.asked) for standin in self.standins]

    def run(self, work: Callable[[EnginePool], Awaitable[None]]) -> None:
        async def main() -> None:
            settings = Settings(engine_url=",".join(self.urls), engine_timeout_s=5, _env_file=None)
            pool = connect(settings)
            try:
                await work(pool)
            finally:
                await pool.aclose()

        asyncio.run(main())


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    yield engines
    for standin, server in zip(engines.standins, engines.servers, strict=True):
        standin.gate.set()
        server.close()


async def complete(pool: EnginePool) -> str:
    return (await pool.complete(DIGEST, MESSAGES, 10)).text


async def stream(pool: EnginePool) -> str:
    return "".join([delta.text async for delta in pool.stream(DIGEST, MESSAGES, 10)])


def test_the_least_loaded_answers(engines):
    async def work(pool):
        for _ in range(4):
            await complete(pool)
        assert engines.asked() == [2, 2]
        engines.standins[0].gate.clear()
        held = asyncio.create_task(complete(pool))
        assert await asyncio.to_thread(engines.standins[0].waiting.wait, 10)
        for _ in range(3):
            await stream(pool)
        assert engines.asked() == [3, 5]
        engines.standins[0].gate.set()
        await held

    engines.run(work)


def test_one_that_is_down_is_left_out_until_it_is_back(engines):
    async def work(pool):
        engines.stop(0)
        assert [await complete(pool) for _ in range(3)] == [
            "aaaaaaaaaaaa answers: one two three"
        ] * 3
        assert await stream(pool) == "aaaaaaaaaaaa answers: one two three"
        assert engines.asked() == [0, 4]
        assert pool.health()
        engines.start(0)
        async with asyncio.timeout(20):  # it is probed on the way of the questions
            while engines.asked()[0] == 0:
                await complete(pool)

    engines.run(work)


def test_all_down_and_up_again(engines):
    async def work(pool):
        for number in (0, 1):
            engines.stop(number)
        for _ in range(3):
            with pytest.raises(Unavailable, match="can't be reached") as error:
                await complete(pool)
            assert error.value.retry_after_s == 1
        assert not await asyncio.to_thread(pool.health)
        engines.start(1)
        assert await complete(pool)  # without waiting for a probe

    engines.run(work)


@pytest.mark.parametrize("ask_for", [complete, stream])
def test_a_full_engine_and_one_without_the_checkpoint_are_passed_by(engines, ask_for):
    async def work(pool):
        for refused in (refusal(503, "full", "overloaded"), refusal(404, "no such", "NotFound")):
            engines.standins[0].failure = refused
            assert [await ask_for(pool) for _ in range(3)] == [
                "aaaaaaaaaaaa answers: one two three"
            ] * 3
        engines.standins[1].failure = refusal(503, "full", "overloaded", **{"Retry-After": "7"})
        with pytest.raises(Unavailable) as error:
            await ask_for(pool)
        assert error.value.retry_after_s in (1, 7)

    engines.run(work)


def test_one_that_fails_at_every_question_is_left_out(engines):
    engines.standins[0].failure = refusal(500, "CUDA error", "server_error")

    async def work(pool):
        with pytest.raises(Unavailable, match="CUDA error"):
            await complete(pool)
        assert [await complete(pool) for _ in range(4)]
        assert engines.asked() == [1, 4]

    engines.run(work)


def test_one_that_is_out_is_asked_nothing_before_it_says_that_it_is_up(engines, monkeypatch):
    monkeypatch.setattr("app.engine_pool.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("app.engine_pool.LONGEST_PAUSE_S", 0.01)
    failing = engines.standins[0]
    failing.failure, failing.is_healthy = refusal(500, "CUDA error", "server_error"), False

    async def work(pool):
        with pytest.raises(Unavailable, match="CUDA error"):
            await complete(pool)
        failing.failure = None
        async with asyncio.timeout(20):
            while failing.probes < 3:
                await complete(pool)
            assert engines.asked()[0] == 1
            failing.is_healthy = True
            while engines.asked()[0] == 1:
                await complete(pool)

    engines.run(work)


def test_a_question_that_kills_its_engine_on_a_known_connection_isnt_passed_on():
    spared = Standin()
    spared.loaded.add(DIGEST)
    server = Server(spared.app)
    answered = Standin()
    answered.loaded.add(DIGEST)
    killed = Server(answered.app)

    async def work():
        relay_to = int(killed.url.rpartition(":")[2])
        seen = []

        async def relay(reader, writer):
            """Pass one question on, and die of the second."""
            out_reader, out_writer = await asyncio.open_connection("127.0.0.1", relay_to)
            out_writer.write(await reader.read(65536))
            writer.write(await out_reader.read(65536))
            seen.append(await reader.read(65536))
            dying.close()
            writer.close()
            out_writer.close()

        dying = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = dying.sockets[0].getsockname()[1]
        pool = EnginePool(
            [EngineClient(f"http://127.0.0.1:{port}", 5), EngineClient(server.url, 5)]
        )
        assert await complete(pool)
        assert await complete(pool)  # of the other one
        with pytest.raises(Unavailable, match="broke"):
            await complete(pool)
        assert len(seen) == 1
        assert len(spared.asked) == 1
        await pool.aclose()

    try:
        asyncio.run(work())
    finally:
        server.close()
        killed.close()


def test_a_question_that_kills_its_engine_isnt_passed_on():
    spared = Standin()
    spared.loaded.add(DIGEST)
    server = Server(spared.app)

    async def work():
        killer = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = killer.sockets[0].getsockname()[1]
        pool = EnginePool(
            [EngineClient(f"http://127.0.0.1:{port}", 5), EngineClient(server.url, 5)]
        )
        with pytest.raises(Unavailable, match="broke"):
            await complete(pool)
        assert spared.asked == []
        assert await complete(pool)
        await pool.aclose()
        killer.close()

    asyncio.run(work())
    server.close()


def test_a_candidate_is_proven_on_every_engine_that_is_up(engines):
    async def work(pool):
        for standin in engines.standins:
            standin.loaded.clear()
        await asyncio.to_thread(pool.prove, DIGEST, PATH)
        assert [standin.loaded for standin in engines.standins] == [{DIGEST}, {DIGEST}]
        engines.standins[1].refuses_to_load = True
        with pytest.raises(Unavailable, match="can't load"):
            await asyncio.to_thread(pool.prove, DIGEST, PATH)
        engines.stop(1)
        await asyncio.to_thread(pool.prove, DIGEST, PATH)
        engines.stop(0)
        with pytest.raises(Unavailable, match="can't be reached"):
            await asyncio.to_thread(pool.prove, DIGEST, PATH)

    engines.run(work)


def test_an_answer_under_another_name_is_none():
    standin = Standin()
    standin.loaded.add(DIGEST)
    standin.answers_as = "base"
    server = Server(standin.app)

    async def work():
        pool = EnginePool([EngineClient(server.url, 5)])
        for way in (complete, stream):
            with pytest.raises(Unavailable, match="another model"):
                await way(pool)
        await pool.aclose()

    asyncio.run(work())
    server.close()


@pytest.mark.parametrize(
    "urls", ["", ",", "localhost:8001", "ftp://a", "http://", "http://a,http://a/"]
)
def test_bad_addresses_are_named(urls):
    with pytest.raises(ValueError, match="engine_url"):
        Settings(engine_url=urls, _env_file=None)
