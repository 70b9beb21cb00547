"""The guard against forgetting: KL divergence to the base model, with the switched-off adapter as the reference.

After SelfAug (arXiv 2509.03934), which holds the logits of the input sequence to the base's while the answer is
learnt. Logits are computed only at the positions that a loss needs: over a vocabulary of 49,152 entries that is most
of the cost of a small model.
"""

from __future__ import annotations

from typing import Any

from hybridmem_plugins.errors import require

_SPECIAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


def hidden_states(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    """Return the last hidden states (batch, tokens, width) of a causal model, PEFT or plain."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(base, base.base_model_prefix)
    return backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def check_head(model: Any) -> None:
    """Check that logits are plainly the output embedding times the hidden state.

    Raises:
        ValueError: The model scales or caps its logits.
    """
    config = model.config.get_text_config()
    special = [key for key in _SPECIAL_HEADS if getattr(config, key, None) not in (None, 1, 1.0)]
    if special:
        msg = f"This model changes its logits ({', '.join(special)}), which the trainer does not support yet."
        raise ValueError(msg)


def head(model: Any, states: Any) -> Any:
    """Return logits, computed in float32 also under autocast, of hidden states (positions, width)."""
    torch = require("torch", "train")
    layer = model.get_output_embeddings()
    bias = layer.bias.float() if getattr(layer, "bias", None) is not None else None
    with torch.autocast(states.device.type, enabled=False):
        return torch.nn.functional.linear(states.float(), layer.weight.float(), bias)


def answer_loss(model: Any, states: Any, labels: Any) -> Any:
    """Return the cross-entropy of the targets: mean over a row's tokens, then over rows, so that each answer counts.

    Args:
        model: The model whose head makes the logits.
        states: Hidden states (batch, tokens, width).
        labels: Token ids (batch, tokens), -100 where there is no target.
    """
    torch = require("torch", "train")
    shifted = labels[:, 1:]
    wanted = shifted != -100
    logits = head(model, states[:, :-1][wanted])
    losses = torch.nn.functional.cross_entropy(logits, shifted[wanted], reduction="none")
    weights = (1.0 / wanted.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(wanted)[wanted]
    return (losses * weights).sum() / wanted.any(dim=1).sum().clamp(min=1)


def kl_to_base(model: Any, states: Any, base_states: Any) -> Any:
    """Return KL(base || tuned), in nats, averaged over positions.

    Args:
        model: The model whose head makes the logits.
        states: Hidden states of the tuned model (positions, width).
        base_states: The base model's at the same positions, without gradient.
    """
    torch = require("torch", "train")
    tuned = torch.log_softmax(head(model, states), dim=-1)
    with torch.no_grad():
        base = torch.log_softmax(head(model, base_states), dim=-1)
    return torch.nn.functional.kl_div(tuned, base, reduction="batchmean", log_target=True)


def pick_positions(guard: Any, count: int, seed: int) -> Any:
    """Choose at most `count` of the guarded positions and return them as a mask like `guard`.

    The choice depends on the seed alone, so that a resumed run makes the ones it would have made.

    Args:
        guard: 1 where a position may be chosen (batch, tokens).
        count: Most positions to choose.
        seed: Seed of the choice.
    """
    torch = require("torch", "train")
    flat = guard.reshape(-1).bool().cpu()
    candidates = flat.nonzero().squeeze(1)
    if len(candidates) > count:
        generator = torch.Generator()
        generator.manual_seed(seed)
        candidates = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
    chosen = torch.zeros_like(flat)
    chosen[candidates] = True
    return chosen.reshape(guard.shape).to(guard.device)
