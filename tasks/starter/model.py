"""The model, its optimizers and its loss; native Llama, so that any runtime loads it."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from app.recipe import Architecture
from tasks.starter.stream import Mix
from tasks.starter.tokenizer import END, MAX_LENGTH, PAD


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run besides the data: kind, size, batch, schedule and seed."""

    architecture: Architecture = "causal"
    hidden: int = 320
    layers: int = 6
    feed: int = 864
    heads: int = 5
    # Streams that share out the items and give so many rows each to every step, however many
    # processes or devices there are.
    sources: int = 14
    rows: int = 3
    processes: int = 2  # on a CPU
    tokens: float = 5e8
    lr: float = 2e-3
    muon_lr: float = 4e-3
    weight_decay: float = 0.05
    warmup: float = 1e5
    averaged: float = 0.998
    # How many streamed items are alive from so many tokens on. What a question asks for is found
    # among few before it is found among many; begun with many, it isn't found at all.
    active: tuple[tuple[float, int], ...] = ((0, 100), (3e7, 150), (8e7, 210), (1.6e8, 280))
    copy_first: float = 4e6
    # The share of the learning rates from such a share of the tokens on.
    rates: tuple[tuple[float, float], ...] = (
        (0, 1.0), (0.08, 0.5), (0.35, 0.3), (0.75, 0.2), (0.95, 0.12),
    )  # fmt: skip
    seed: int = 1
    save_every_s: float = 240.0
    mix: Mix = field(default_factory=Mix)

    def rate(self, tokens: float) -> float:
        """Return the share of the learning rates after so many tokens."""
        return [rate for after, rate in self.rates if after * self.tokens <= tokens][-1]


def new_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make an untrained model with tied embeddings."""
    torch.manual_seed(plan.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=plan.hidden,
        num_hidden_layers=plan.layers,
        intermediate_size=plan.feed,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        attn_implementation="sdpa",
        # Transformers' own switch for attention both ways, which the import goes by.
        **({} if plan.architecture == "causal" else {"is_causal": False}),
    )
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, plan: Plan) -> list[torch.optim.Optimizer]:
    """Return AdamW and, for the matrices of the layers, Muon, unless its rate is 0."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    chosen = {id(p) for p in matrices} if plan.muon_lr else set()
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim == 2], "weight_decay": plan.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            groups,
            lr=plan.lr,
            betas=(0.9, 0.95),
            fused=True,
            capturable=model.device.type == "cuda",
        )
    ]
    if plan.muon_lr:
        made.append(
            torch.optim.Muon(
                matrices,
                lr=plan.muon_lr,
                weight_decay=plan.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def losses(model: LlamaForCausalLM, laid: Tensor, at: Tensor) -> Tensor:
    """Return the nats of every target, float32 [N]; `laid` is one step's [5, rows, WIDTH]."""
    ids, positions, owners, labels, _ = laid
    mask = owners[:, None, :, None] == owners[:, None, None, :]
    mask = mask.tril() if getattr(model.config, "is_causal", True) else mask
    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden = model.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1).index_select(0, at)).float()
    # Written out, the compiler fuses it; the library's backward pass alone cost a sixth of a step.
    said = labels.flatten()[at].clamp(min=0).long()
    return logits.logsumexp(-1) - logits.gather(1, said[:, None])[:, 0]


def read_model(work: Path, plan: Plan, tokenizer: Path) -> LlamaForCausalLM:
    """Return the averaged weights of a run's last saved state."""
    model = new_model(plan, PreTrainedTokenizerFast.from_pretrained(tokenizer))
    tensors = load_file(work / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"average.{name}"])
    return model.eval()
