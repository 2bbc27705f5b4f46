"""Prepacked weights answer as plain ones do, under an adapter too, and their memory is counted."""

from app.lm.generation import generate
from app.lm.loading import load
from app.lm.prepacked import PrepackedLinear, prepack
from tests.lm.conftest import TinyStore

PROMPTS = [[5, 6, 7], [8] * 40, [9, 10]]


def test_a_prepacked_root_and_its_adapter_answer_as_before(tiny: TinyStore):
    root = load(tiny.path, tiny.digests["llama"])
    plain = [generate(root, PROMPTS, 12)]
    plain += [generate(load(tiny.path, tiny.digests["adapter"], root=root), PROMPTS, 12)]
    size = root.size
    prepack(root.model)
    adapter = load(tiny.path, tiny.digests["adapter"], root=root)
    assert [generate(bundle, PROMPTS, 12) for bundle in (root, adapter)] == plain
    head = root.model.lm_head
    assert isinstance(head, PrepackedLinear)
    assert root.size == size + head.weight.nbytes  # embeddings stay as they were
