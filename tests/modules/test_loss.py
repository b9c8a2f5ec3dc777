"""The loss of packed rows: which tokens have one, that no logits of other tokens are computed, what a loader adds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from src.datamodules.batches import IGNORED, collate
from src.datamodules.layout import with_targets
from src.modules.fused_loss import LossKernel
from src.modules.loss import supervised_loss, token_losses

SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def llama(tied: bool = True, attention: str = "sdpa") -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, tie_word_embeddings=tied)
    return LlamaForCausalLM._from_config(config, attn_implementation=attention)


def packed_batch(*rows: list[int], length: int = 24, ignored: float = 0.3) -> dict[str, Tensor]:
    """Rows of segments of these lengths, some labels of which have no loss."""
    generator = np.random.default_rng(len(rows))
    batch = []
    for lengths in rows:
        ids = generator.integers(3, 120, length)
        labels = np.where(generator.random(length) < ignored, IGNORED, ids)
        positions = np.concatenate([np.arange(size) for size in [*lengths, length - sum(lengths)]])
        labels[positions == 0], labels[sum(lengths) :] = IGNORED, IGNORED
        arrays = {"input_ids": ids, "labels": labels, "position_ids": positions}
        batch.append({name: torch.from_numpy(array) for name, array in arrays.items()})
    return {key: torch.stack([row[key] for row in batch]) for key in batch[0]}


def plain_loss(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of all logits, summed."""
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", ["chunked", "full"])
def test_loss_and_all_gradients_equal_those_of_all_logits(tied: bool, name: str) -> None:
    model, batch = llama(tied), packed_batch([10, 9], [24], [3, 1, 15])
    wanted = plain_loss(model, batch)
    wanted.backward()
    expected = {key: parameter.grad for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    found = supervised_loss(model, batch, LossKernel(name, 7))
    found.total.backward()
    torch.testing.assert_close(found.total, wanted)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and expected[key] is not None
        assert (parameter.grad - expected[key]).norm() < 1e-5 * expected[key].norm(), key


def test_each_loss_names_its_row_and_its_target() -> None:
    model, batch = llama(), packed_batch([10, 9], [24], [3, 1, 15])
    found = supervised_loss(model, batch)
    rows, columns = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
    assert found.rows.tolist() == rows.tolist()
    assert found.targets.tolist() == batch["labels"][rows, columns + 1].tolist()
    for row in range(3):
        alone = {key: value[row : row + 1] for key, value in batch.items()}
        torch.testing.assert_close(found.tokens[found.rows == row].sum(), plain_loss(model, alone).detach())
    assert found.tokens.sum() == found.total.detach() and not found.tokens.requires_grad


def test_a_batch_without_a_single_label_has_a_loss_of_zero_with_gradients_of_zero() -> None:
    model, batch = llama(), packed_batch([10, 9], ignored=1.0)
    found = supervised_loss(model, batch)
    found.total.backward()
    assert found.total == 0 and len(found.tokens) == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_softcapped_logits_go_through_the_models_own_forward() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=2.0, query_pre_attn_scalar=8)
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager")
    model.lm_head.weight.data *= 100  # so that the cap is felt
    batch = packed_batch([10, 9], [24])
    torch.testing.assert_close(supervised_loss(model, batch).total, plain_loss(model, batch))
    assert (model(batch["input_ids"]).logits.abs() <= 2).all()


def test_token_losses_have_no_gradient() -> None:
    model, batch = llama(), packed_batch([10, 9], [24])
    losses, targets = token_losses(model, batch)
    assert not losses.requires_grad and losses.dtype == torch.float32 and len(losses) == len(targets)
    torch.testing.assert_close(losses.sum(), plain_loss(model, batch).detach())


def test_what_the_loader_adds_gives_the_same_loss() -> None:
    model, batch = llama(attention="packed_varlen"), packed_batch([10, 9], [24], [3, 1, 15])
    from_loader = collate([{key: value[row] for key, value in batch.items()} for row in range(3)])
    assert {"predictors", "targets", "segment_starts", "longest_segment"} <= from_loader.keys()
    assert supervised_loss(model, from_loader).total == supervised_loss(model, batch).total


def test_predictors_are_the_places_before_their_targets() -> None:
    batch = packed_batch([10, 9], [24], [3, 1, 15])
    found = with_targets(batch)
    ids = batch["input_ids"].flatten()
    assert found["targets"].tolist() == ids[found["predictors"] + 1].tolist()
    labels = batch["labels"].flatten()
    assert sorted(found["predictors"].tolist()) == ((labels != IGNORED).nonzero()[:, 0] - 1).tolist()
