"""A byte-level BPE in which a name has the same tokens wherever it stands.

Every word is encoded with a blank before it. Where the text has none (after a newline, a quotation
mark, a bracket), the normaliser writes JOIN and a blank, and the decoder takes both out again; a
JOIN that the text itself contains is escaped, so any text survives the round trip.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END, MASK = "<|pad|>", "<|end|>", "<|mask|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIALS = (PAD, END, MASK, *ROLES)
JOIN, ESCAPE = "\ue000", "\ue001"
VOCABULARY = 8192
MAX_LENGTH = 512
OPENERS = "\n\t\"'([{“‘„«¿¡/*_#-–—"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# A piece is a clitic, a word or at most two digits with a blank before, marks (with the JOIN that
# may follow them), or white space.
PIECE = (
    rf"['’](?:s|t|re|ve|ll|d|m)(?![\p{{L}}\p{{N}}])| ?\p{{L}}[\p{{L}}\p{{M}}]*| ?\p{{N}}{{1,2}}"
    rf"| ?[^\s\p{{L}}\p{{N}}{JOIN}]+{JOIN}?|\s{JOIN}?|{JOIN}"
)


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn the merges from texts and wrap them with special tokens and the chat template."""
    core = Tokenizer(models.BPE())
    joins = [normalizers.Replace(_opener(mark), f"{mark}{JOIN} ") for mark in OPENERS]
    core.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(ESCAPE, ESCAPE + "b"),
            normalizers.Replace(JOIN, ESCAPE + "a"),
            *joins,
            normalizers.Prepend(" "),
        ]
    )
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Replace(JOIN + " ", ""),
            decoders.Replace(ESCAPE + "a", JOIN),
            decoders.Replace(ESCAPE + "b", ESCAPE),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        mask_token=MASK,
        additional_special_tokens=list(ROLES),
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode one message content on its own; text that spells a special token stays text."""
    ids = tokenizer(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return list(ids)


def _opener(mark: str) -> Regex:
    if mark == "'":  # within a word it's an apostrophe
        return Regex(r"(?<![\p{L}\p{M}])'(?=\p{L})")
    escaped = "\\" + mark if mark in "([{*-" else mark
    return Regex(escaped + r"(?=[\p{L}\p{N}])")
