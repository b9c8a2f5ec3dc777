"""Next-token loss of packed rows, computed only where there is something to learn.

The language-model head is the widest matrix of a small model and most positions of an instruction row have no loss, so
hidden states are selected *before* the head, and head and cross-entropy are fused (`src.modules.fused_loss`): the same
number, less work and no ``[tokens, vocabulary]`` tensor. Models whose logits are more than ``head(hidden)`` go through
their own forward.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from src.datamodules.layout import with_targets
from src.modules.attention import FAMILIES, attention_arguments
from src.modules.fused_loss import LossKernel, head_losses


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


def supervised_loss(model: nn.Module, batch: dict[str, Any], kernel: LossKernel | None = None) -> SupervisedLoss:
    """Negative log-likelihood of every supervised token, in nats.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        batch: ``input_ids``, ``labels`` and ``position_ids``, each ``[batch, length]``, and what `with_layout` adds; it
            is added here where it is missing, for which the program waits for a GPU.
        kernel: how head and cross-entropy are computed.
    """
    if "predictors" not in batch:
        batch = with_targets(batch)
    predictors, targets = batch["predictors"], batch["targets"]
    # Packed rows are kept apart only if no mask is given and no cache is made: transformers then reads the segments
    # from the position ids. Either of the two silently turns that off.
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    decoder, head = decoder_and_head(model)
    if decoder is not None and head is not None:
        hidden = decoder(**inputs, **attention_arguments(decoder, batch)).last_hidden_state
        total, losses = head_losses(head, hidden.flatten(0, 1).index_select(0, predictors), targets, kernel)
    else:
        logits = model(**inputs).logits.flatten(0, 1).index_select(0, predictors)
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        total = losses.sum()
    rows = predictors // batch["input_ids"].shape[1]
    return SupervisedLoss(total, losses.detach(), rows, targets)


def token_losses(model: nn.Module, batch: dict[str, Any], kernel: LossKernel | None = None) -> tuple[Tensor, Tensor]:
    """Losses of the supervised tokens without gradients, and the ids they belong to.

    Returns:
        both ``[supervised]``; float32 and int64.
    """
    with torch.no_grad():
        found = supervised_loss(model, batch, kernel)
    return found.tokens, found.targets


def decoder_and_head(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The transformer stack and the language-model head, where logits are exactly ``head(decoder(...))``."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = getattr(inner, "config", None)
    if getattr(config, "model_type", None) not in FAMILIES:
        return None, None
    return inner.base_model, inner.get_output_embeddings()


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Logits of packed rows, ``[batch, length, vocabulary]``; for tests and inspection."""
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
