"""Next-token loss of packed rows, computed only where there is something to learn.

The language-model head is the widest matrix of a small model and most positions of an instruction row have no loss, so
hidden states are selected *before* the head: the same number, less work. Models whose logits are more than
``head(hidden)`` go through their own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

IGNORED = -100
_PLAIN_HEAD = {"llama", "mistral", "qwen2", "qwen3"}  # logits are head(hidden) and nothing else


@dataclass(frozen=True)
class SupervisedLoss:
    """Loss of the supervised tokens of a batch.

    total: their sum in nats, with a gradient; a scalar.
    tokens: the loss of each, without a gradient, ``[supervised]``, float32.
    rows: the row of the batch each belongs to, ``[supervised]``, int64.
    targets: their ids, ``[supervised]``, int64.
    """

    total: Tensor
    tokens: Tensor
    rows: Tensor
    targets: Tensor


def supervised_loss(model: nn.Module, batch: dict[str, Tensor]) -> SupervisedLoss:
    """`token_losses`, summed for training."""
    losses, targets = token_losses(model, batch)
    rows = (batch["labels"][:, 1:] != IGNORED).nonzero()[:, 0]
    return SupervisedLoss(losses.sum(), losses.detach(), rows, targets)


def token_losses(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every supervised token, in nats.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        batch: ``input_ids``, ``labels`` and ``position_ids``, each ``[batch, length]``.

    Returns:
        losses and the token ids they belong to, both ``[supervised]``; float32 and int64.
    """
    targets = batch["labels"][:, 1:]
    supervised = targets != IGNORED
    # Packed rows are kept apart only if no mask is given and no cache is made: transformers then reads the segments
    # from the position ids. Either of the two silently turns that off.
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    decoder, head = decoder_and_head(model)
    if decoder is not None and head is not None:
        hidden = decoder(**inputs).last_hidden_state[:, :-1]
        logits = head(hidden[supervised])
    else:
        logits = model(**inputs).logits[:, :-1][supervised]
    targets = targets[supervised]
    return F.cross_entropy(logits.float(), targets, reduction="none"), targets


def decoder_and_head(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The transformer stack and the language-model head, where logits are exactly ``head(decoder(...))``."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = getattr(inner, "config", None)
    if getattr(config, "model_type", None) not in _PLAIN_HEAD:
        return None, None
    return inner.base_model, inner.get_output_embeddings()


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits of packed rows, ``[batch, length, vocabulary]``; for tests and inspection."""
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
