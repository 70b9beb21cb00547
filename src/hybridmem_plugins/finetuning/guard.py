"""The guard against forgetting: KL divergence to the base model, with the switched-off adapter as the reference.

After SelfAug (arXiv 2509.03934), which holds the logits of the input sequence to the base's while the answer is
learnt. Logits are computed only at the positions that a loss needs: over a vocabulary of 49,152 entries that is most
of the cost of a small model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybridmem_plugins.errors import require

_SPECIAL_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


def backbone(model: Any) -> Any:
    """Return the layers without the head of a causal model, PEFT or plain."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, base.base_model_prefix)


def hidden_states(model: Any, input_ids: Any) -> Any:
    """Return the last hidden states (batch, tokens, width) of a causal model, PEFT or plain.

    Rows are padded on the right, where no token of a causal model looks: so no mask is needed, and the fast attention
    kernels, which take none, can run.
    """
    return backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state


@contextmanager
def without_adapter(model: Any) -> Iterator[None]:
    """Run a PEFT model as its base.

    PEFT's own `disable_adapter` takes stock of all layers and parameters each time, which takes longer than a small
    model takes to run.
    """
    kind = require("peft.tuners.tuners_utils", "train").BaseTunerLayer
    layers = [module for module in model.modules() if isinstance(module, kind)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def check_head(model: Any) -> None:
    """Check that logits are plainly the output embedding times the hidden state.

    Raises:
        ValueError: The model scales or caps its logits.
    """
    torch, config = require("torch", "train"), model.config.get_text_config()
    special = [key for key in _SPECIAL_HEADS if getattr(config, key, None) not in (None, 1, 1.0)]
    ids = torch.arange(4, device=next(model.parameters()).device).unsqueeze(0)
    with torch.inference_mode():
        told, own = model(input_ids=ids, use_cache=False).logits.float(), head(model, hidden_states(model, ids))
    # Some cap large logits alone, which four tokens may not show.
    if special or not torch.allclose(told, own, atol=0.02 * float(told.abs().max())):
        why = f" ({', '.join(special)})" if special else ""
        msg = f"This model changes its logits{why}, which the trainer does not support yet."
        raise ValueError(msg)


def head(model: Any, states: Any) -> Any:
    """Return logits, computed in float32 also under autocast, of hidden states (positions, width)."""
    torch = require("torch", "train")
    layer = model.get_output_embeddings()
    bias = layer.bias.float() if getattr(layer, "bias", None) is not None else None
    with torch.autocast(states.device.type, enabled=False):
        return torch.nn.functional.linear(states.float(), layer.weight.float(), bias)


def answer_loss(model: Any, states: Any, targets: Any, weights: Any) -> Any:
    """Return the weighted cross-entropy of the targets.

    Args:
        model: The model whose head makes the logits.
        states: Hidden states (positions, width) at the places that predict a target.
        targets: Token ids (positions).
        weights: Weights (positions): 1 over the row's targets and the rows, so that each answer counts alike.
    """
    torch = require("torch", "train")
    losses = torch.nn.functional.cross_entropy(head(model, states), targets, reduction="none")
    return (losses * weights).sum()


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
