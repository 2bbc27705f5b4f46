"""What the arms train: models with random weights, texts of given lengths, and the starter."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from app.lm.chat import encode_text
from app.lm.loading import Bundle, load
from tasks.bench.figures import reference
from tasks.bench.subjects import Subject, invent, read_subjects
from tasks.bench.training.plan import Case, Shape

CLASSES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}
INVENTED_SEED = 70_000


@dataclass(frozen=True)
class Ground:
    """The starter in its store, and the folder of results."""

    out: Path
    store: Path
    digest: str

    def open_starter(self) -> Bundle:
        """Load it afresh, all weights in float32."""
        return load(self.store, self.digest, dtype=torch.float32)

    def open_case(self, case: Case) -> tuple[Bundle, list[str]]:
        """Return a case's model and its texts."""
        bundle = self.open_starter()
        texts = make_texts(case, bundle)
        return randomize(bundle, case.shape, "cpu", torch.float32), texts

    def facts(self, count: int) -> list[Subject]:
        """Return facts about names that the starter never saw."""
        path = self.out / f"facts-{count}.jsonl"
        if not path.exists():
            invent(path, count, INVENTED_SEED)
        return read_subjects(path)


def randomize(bundle: Bundle, shape: Shape, device: str, dtype: torch.dtype) -> Bundle:
    """Put a model of another shape with random weights in place of a bundle's.

    The tokenizer stays: its ids are few, but the output layer has the shape's whole vocabulary.
    """
    config, model = CLASSES[shape.family]
    sizes = config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return replace(bundle, model=model(sizes).to(dtype))


def make_texts(case: Case, bundle: Bundle) -> list[str]:
    """Invent a batch of texts, their lengths in tokens spread evenly from shortest to longest."""
    rng = random.Random(0)
    words = sorted({word for row in reference() for word in row["text"].split()})
    texts = []
    for number in range(case.batch):
        share = number / max(1, case.batch - 1)
        most = round(case.shortest + share * (case.longest - case.shortest))
        text = rng.choice(words)
        while len(encode_text(bundle.tokenizer, longer := f"{text} {rng.choice(words)}")) <= most:
            text = longer
        texts.append(text)
    return rng.sample(texts, len(texts))
