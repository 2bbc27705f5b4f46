"""The entity stream: items are stated for a while before anything is asked about them."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tasks.starter import samples
from tasks.starter.items import Item, make_item
from tasks.starter.samples import Encoder, Sample
from tasks.training.objectives.spans import choose_cut


@dataclass(frozen=True)
class Mix:
    """Shares of the tasks and the shape of an item's life, counted in exposures."""

    stated: tuple[int, int] = (40, 64)
    asked: int = 12
    ask_share: float = 0.7
    one_wording: float = 0.7
    plain: float = 0.1
    infill: float = 0.7
    cut: float = 0.4
    permanents: int = 600
    permanent: float = 0.14
    overlay: float = 0.25
    copying: float = 0.06
    early_copying: float = 0.5
    writing: float = 0.04
    sums: float = 0.01


class Told:
    """An item with its statements encoded once, for all the ways of stating it."""

    def __init__(self, item: Item, encoder: Encoder) -> None:
        self.item, self.encoder = item, encoder
        self.ids = [encoder.encode(text) for text in item.texts]
        self.starts = [encoder.word_starts(ids) for ids in self.ids]
        # Where each span stands in each wording; one that was reworded stands nowhere.
        found = [[encoder.spots(ids, span) for span in item.spans] for ids in self.ids]
        self.spots = [[spots for spots in spans if spots] for spans in found]

    def state(self, rng: Random, mix: Mix) -> Sample:
        """Show one wording: as it stands, or with something hidden to be recovered."""
        choice = rng.randrange(len(self.ids))
        ids = self.ids[choice]
        if rng.random() < mix.plain:
            return self.encoder.plain(self.item.texts[choice])
        if rng.random() < mix.infill:
            gap = samples.gap(rng, self.spots[choice], self.starts[choice])
            cut = rng.random() < mix.cut
            left_out = choose_cut(self.starts[choice], gap, rng) if cut else range(0)
            return self.encoder.infill(ids, gap, left_out)
        return self.encoder.demask(ids, samples.masks(rng, len(ids), self.spots[choice]))


class Life:
    """One streamed item with the count of its exposures; `late`: so much of a life comes on top."""

    def __init__(self, rng: Random, mix: Mix, encoder: Encoder, late: float = 0.0) -> None:
        wordings = 1 if rng.random() < mix.one_wording else 4
        self.told = Told(make_item(rng, wordings=wordings), encoder)
        self.stated = rng.randint(*mix.stated)
        self.end = self.stated + mix.asked
        self.count = -round(late * self.end)
        self.asked: set[str] = set()


class Stream:
    """An endless, seeded source of samples; `permanent_seed` fixes the world of version 0."""

    def __init__(
        self, encoder: Encoder, mix: Mix, active: int, seed: int, permanent_seed: int = 1
    ) -> None:
        self.encoder, self.mix, self.rng = encoder, mix, Random(seed)
        items = permanent_items(mix.permanents, permanent_seed)
        self.permanents = [Told(item, encoder) for item in items]
        self.lives: list[Life] = []
        self.grow(active)

    def __iter__(self) -> Iterator[Sample]:
        while True:
            yield self.sample()

    def grow(self, active: int) -> None:
        """Let so many items be alive from now on, if it is more than there are."""
        for _ in range(active - len(self.lives)):
            # Begun together, they end apart: none is asked about before it was stated enough.
            late = self.rng.random() * 0.5
            self.lives.append(Life(self.rng, self.mix, self.encoder, late))

    def sample(self, early: bool = False) -> Sample:
        """Draw the next sample; an early model gets more of what teaches it to copy."""
        mix, rng = self.mix, self.rng
        draw = rng.random()
        for task, share in (
            (self._overlay, mix.overlay),
            (self._copy, mix.early_copying if early else mix.copying),
            (self._permanent, mix.permanent),
            (self._write, mix.writing),
            (self._sum, mix.sums),
        ):
            if draw < share:
                return task()
            draw -= share
        return self._streamed()

    def _streamed(self) -> Sample:
        mix, rng = self.mix, self.rng
        index = rng.randrange(len(self.lives))
        life = self.lives[index]
        life.count += 1
        if life.count > life.end:
            life = self.lives[index] = Life(rng, mix, self.encoder)
        if life.count > life.stated and rng.random() < mix.ask_share:
            question = life.told.item.ask(rng)
            task = f"warm_{question.direction}"
            if question.answer not in life.asked:  # never asked so far: what the update needs
                life.asked.add(question.answer)
                task = f"cold_{question.direction}"
            return self.encoder.ask(question.text, question.answer, task)
        return life.told.state(rng, mix)

    def _permanent(self) -> Sample:
        told = self.rng.choice(self.permanents)
        if self.rng.random() < 0.6:
            question = told.item.ask(self.rng)
            return self.encoder.ask(question.text, question.answer, "permanent")
        return told.state(self.rng, self.mix)

    def _overlay(self) -> Sample:
        rng = self.rng
        item = make_item(rng, wordings=1)
        notes = [item.texts[0]]
        others = rng.choice((0, 0, 1, 1, 2, 2, 3, 4))
        notes += [make_item(rng, wordings=1).texts[0] for _ in range(others)]
        rng.shuffle(notes)
        if rng.random() < 0.08:
            question, answer = samples.full_sentence(rng, item)
            return self.encoder.ask(question, answer, "overlay", notes)
        asked = item.ask(rng)
        return self.encoder.ask(asked.text, asked.answer, "overlay", notes)

    def _copy(self) -> Sample:
        rng = self.rng
        if rng.random() < 0.5:
            ids = self.encoder.any_tokens(rng)
            hidden = [False] * len(ids)  # nothing tells a hidden one
        else:
            item = rng.random() < 0.5
            text = make_item(rng, wordings=1).texts[0] if item else samples.salad(rng)
            ids = self.encoder.encode(text)
            hidden = samples.token_masks(rng, len(ids), 0.0, 0.15)
        return self.encoder.copy(ids, hidden)

    def _write(self) -> Sample:
        item = make_item(self.rng, wordings=1)
        question = item.ask(self.rng)
        return self.encoder.write(item.texts[0], question.text, question.answer)

    def _sum(self) -> Sample:
        return self.encoder.ask(*samples.arithmetic(self.rng), "sum")


def permanent_items(count: int, seed: int) -> list[Item]:
    """Return the lasting items of the world, the same for every stream."""
    rng = Random(seed)
    return [make_item(rng, wordings=4) for _ in range(count)]
