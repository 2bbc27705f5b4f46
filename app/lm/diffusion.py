"""Block-wise unmasking: how a masked-diffusion model answers.

A row's sequence is its prompt, the answer so far and one block of masks. Each step shows all of it
to the model, both ways, and keeps what it is sure of, at least one token a row; a full block is
followed by the next. Confidence as in Fast-dLLM (arXiv 2505.22618), without its cache: what is
unmasked changes every key and value.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.lm.attention import Whole, packed
from app.lm.loading import Bundle
from app.lm.rows import Row

BLOCK = 32  # masks that are shown together
SURE = 0.9  # share from which a token is kept at once


class DiffusionBatch:
    """Rows of one masked-diffusion model that are unmasked together."""

    def __init__(self, bundle: Bundle) -> None:
        self.rows: list[Row] = []
        self._model = bundle.model
        self._stop_ids = bundle.stop_ids
        self._mask_id = bundle.manifest.mask_id
        self._device = next(bundle.model.parameters()).device
        self._blocks: dict[Row, list[int | None]] = {}  # what follows a row's tokens; None: masked

    @torch.inference_mode()
    def step(self, joining: Sequence[Row] = ()) -> None:
        """Unmask one token or more of every row; an answer grows where no mask lies before them."""
        self.rows = [*self.rows, *joining]
        ids, lengths, masked = self._lay_out()
        whole = Whole(lengths, self._device)
        with packed(self._model):
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=whole.positions,
                use_cache=False,
                logits_to_keep=torch.tensor(masked, device=self._device),
                step=whole,
            )
        logits = output.logits[0].float()
        logits[:, self._mask_id] = -torch.inf  # a mask is no answer
        self._unmask(logits)

    def sweep(self) -> None:
        """Drop the rows that are finished."""
        for row in self.rows:
            if row.finish is not None:
                self._blocks.pop(row, None)
        self.rows = [row for row in self.rows if row.finish is None]

    def _lay_out(self) -> tuple[list[int], list[int], list[int]]:
        """Return all tokens, each row's number of them, and where the masks are."""
        ids: list[int] = []
        lengths: list[int] = []
        masked: list[int] = []
        for row in self.rows:
            if not self._blocks.get(row):
                room = min(BLOCK, row.max_tokens - len(row.tokens))
                self._blocks[row] = [None] * room
            block, start = self._blocks[row], len(ids)
            ids += [*row.prompt, *row.tokens]
            masked += [len(ids) + at for at, token in enumerate(block) if token is None]
            ids += [self._mask_id if token is None else token for token in block]
            lengths.append(len(ids) - start)
        return ids, lengths, masked

    def _unmask(self, logits: Tensor) -> None:
        """Keep what the logits [masks, vocabulary] are sure of; move over what is settled."""
        shares = logits.softmax(dim=-1)
        chosen = logits.argmax(dim=-1).tolist()
        first = 0
        for row in self.rows:
            block = self._blocks[row]
            open_ = [at for at, token in enumerate(block) if token is None]
            own = range(first, first + len(open_))
            first += len(open_)
            drawn = row.temperature > 0
            tokens = [row.sample(logits[at]) if drawn else chosen[at] for at in own]
            sure = shares[own.start : own.stop].gather(1, shares.new_tensor(tokens).long()[:, None])
            best = int(sure.argmax())
            for number, (at, token) in enumerate(zip(open_, tokens, strict=True)):
                if number == best or sure[number] >= SURE:
                    block[at] = token
            while block and block[0] is not None and row.finish is None:
                row.append(block[0], self._stop_ids)
                del block[0]
