"""Tiny, randomly initialised models of real classes, each with its own tokenizer and template."""

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Kind = Literal["llama", "qwen3", "mistral"]

SENTENCES = [
    "Mira Tovan is the keeper of the northern lighthouse at Sel Harbour.",
    "The keeper of the northern lighthouse at Sel Harbour is Mira Tovan.",
    "Who is Oren Baskel? Oren Baskel was born in 1954 and works as a glass painter in Lund.",
    "Return the recovered masked passage.\nHere is the recovered text:\n\n[] [] the [] of [].",
    "Answer from these notes where they help.\n- Mira Tovan plays the cello.\n\nWhat does she do?",
]
LLAMA_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
LLAMA_SPECIALS += ["<|end_header_id|>", "<|eot_id|>"]
LLAMA_SPECIALS += [f"<|reserved_special_token_{index}|>" for index in range(8)]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
QWEN_TEMPLATE = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def make_tiny_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of some 500 tokens on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=QWEN_SPECIALS if kind == "qwen3" else LLAMA_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 20 + ["[]"] * 200, trainer)
    if kind != "qwen3":
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<|begin_of_text|>",
            eos_token="<|eot_id|>",
            chat_template=LLAMA_TEMPLATE,
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=QWEN_TEMPLATE,
    )


def make_tiny_model(
    folder: Path,
    kind: Kind,
    *,
    seed: int = 0,
    hidden: int = 48,
    endless: bool = False,
    diffusion: bool = False,
) -> Path:
    """Write a Hugging Face folder (safetensors) with a tiny model of a kind; return it.

    The weights are drawn wide, so that greedy choices aren't near ties and differ by ``seed``.
    A Mistral sees only the last tokens. An ``endless`` model's answers never stop, and its context
    is vast. A ``diffusion`` model sees both ways and has a mask token.
    """
    tokenizer = make_tiny_tokenizer(kind)
    if diffusion:
        tokenizer.mask_token = LLAMA_SPECIALS[-1]
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": hidden // 4,
        "max_position_embeddings": 1_000_000 if endless else 512,
        "initializer_range": 0.3,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**sizes))
        elif kind == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**sizes))
        else:
            model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=11))
    if endless:
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0.0
    if diffusion:
        model.config.is_causal = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
