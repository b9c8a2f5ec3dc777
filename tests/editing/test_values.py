"""The optimised vector makes the model say the target, and a batch gives each edit what it would get alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from src.editing.anatomy import find_anatomy
from src.editing.contexts import Contexts, write_contexts
from src.editing.edit import Edit
from src.editing.encoding import Encoder
from src.editing.values import EditRows, ValueSettings, optimize_values
from src.errors import UserError
from tests.editing.tiny_families import tiny
from tests.models.tiny_decoders import write_byte_tokenizer

EDITS = [
    Edit("The city of Rome is in", "Peru", "Rome", id="1"),
    Edit("Ada knows", "the sea", "Ada", id="2"),
    Edit("北京是", "城", "北京", id="3"),
    Edit("It is said that Oslo", "x", "Oslo", id="4"),
]
CONTEXTS = Contexts({"en": ("The cat. ", "So it goes on. "), "zh": ("这是。",)})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(write_byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))))


def rows_of(family: str, encoder: Encoder, edits: list[Edit]) -> EditRows:
    model = tiny(family).requires_grad_(False)
    return EditRows(model, find_anatomy(model), encoder, edits, CONTEXTS)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("part", ["mlp", "block"])
def test_the_target_follows_where_the_vector_is_added(family: str, part: str, encoder: Encoder) -> None:
    rows = rows_of(family, encoder, EDITS[:2])
    anatomy, model = rows.anatomy, rows.ends.model
    module = anatomy.layer(1) + (f".{anatomy.mlp_out}" if part == "mlp" else "")
    settings = ValueSettings(steps=20, lr=0.2, clamp=50, kl_factor=0, weight_decay=0)
    found, first = (optimize_values(rows, module, 1, replace(settings, steps=steps)) for steps in (20, 1))
    assert (found.losses < first.losses).all() and not first.delta.any()
    for number, edit in enumerate(EDITS[:2]):
        losses = []
        for prompt in CONTEXTS.of(edit.prompt):
            encoded = encoder.encode(prompt, edit.target_new, edit.subject)

            def hook(module, args, output, number=number, at=encoded.subject_last):  # type: ignore[no-untyped-def]
                value = (output[0] if isinstance(output, tuple) else output).clone()
                value.view(-1, value.shape[-1])[at] += found.delta[number]
                return (value, *output[1:]) if isinstance(output, tuple) else value

            with torch.no_grad(), model.get_submodule(module).register_forward_hook(hook):
                logits = model(input_ids=torch.tensor([encoded.ids])).logits[0]
            losses.append(F.cross_entropy(logits[list(encoded.predictors)], torch.tensor(encoded.target_ids)))
        torch.testing.assert_close(torch.stack(losses).mean(), found.losses[number], rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_edits_one_by_one(encoder: Encoder) -> None:
    settings = ValueSettings(steps=12, lr=0.1, stop_loss=5.3)
    together_rows = rows_of("llama", encoder, EDITS)
    module = f"{together_rows.anatomy.layer(1)}.{together_rows.anatomy.mlp_out}"
    together = optimize_values(together_rows, module, 1, settings)
    keys, bare = together_rows.mean_keys(1), together_rows.bare_keys(1)
    for number, edit in enumerate(EDITS):
        rows = rows_of("llama", encoder, [edit])
        alone = optimize_values(rows, module, 1, settings)
        torch.testing.assert_close(alone.delta[0], together.delta[number], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(alone.losses[0], together.losses[number], rtol=1e-3, atol=1e-4)
        assert alone.steps[0] == together.steps[number]
        torch.testing.assert_close(rows.mean_keys(1)[0], keys[number], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.bare_keys(1)[0], bare[number], rtol=1e-4, atol=1e-5)
    assert len(set(together.steps.tolist())) > 1  # some were done before others


def test_keys_are_means_over_contexts(encoder: Encoder) -> None:
    rows = rows_of("llama", encoder, EDITS[:1])
    model, anatomy = rows.ends.model, rows.anatomy
    keys = []
    for prompt in CONTEXTS.of(EDITS[0].prompt):
        found = encoder.encode(prompt, subject="Rome")
        seen = []
        with model.get_submodule(f"{anatomy.layer(2)}.{anatomy.mlp_out}").register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        ):
            model(input_ids=torch.tensor([found.ids]))
        keys.append(seen[0][0, found.subject_last])
    torch.testing.assert_close(rows.mean_keys(2)[0], torch.stack(keys).mean(0), rtol=1e-4, atol=1e-5)
    half = (keys[0] + torch.stack(keys[1:]).mean(0)) / 2
    torch.testing.assert_close(rows.mean_keys(2, halves=True)[0], half, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows.bare_keys(2)[0], keys[0], rtol=1e-4, atol=1e-5)


def test_vectors_stay_within_the_clamp_and_the_model_as_it_is(encoder: Encoder) -> None:
    rows = rows_of("llama", encoder, EDITS[:2])
    before = [parameter.clone() for parameter in rows.ends.model.parameters()]
    module = rows.anatomy.layer(1)
    found = optimize_values(rows, module, 1, ValueSettings(steps=10, lr=5, clamp=0.5))
    assert (found.delta.norm(dim=1) <= 0.5 * found.init.norm(dim=1) * 1.0001).all()
    assert all(torch.equal(a, b) for a, b in zip(before, rows.ends.model.parameters(), strict=True))


def test_an_edit_without_subject_is_refused(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="edit 9 has no subject"):
        rows_of("llama", encoder, [Edit("Rome is in", "Peru", id="9")])


def test_contexts_are_the_models_own_and_the_same_each_time(encoder: Encoder) -> None:
    state = torch.random.get_rng_state()
    first = write_contexts(tiny("llama"), encoder.tokenizer, (3, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == write_contexts(tiny("llama"), encoder.tokenizer, (3, 6))
    assert first != write_contexts(tiny("llama"), encoder.tokenizer, (3, 6), seed=1)
    bare, *others = first.of("Rome is in")
    assert bare == "Rome is in" and len(others) == 10 and all(each.endswith(". Rome is in") for each in others)
    assert first.of("北京是")[1].endswith("。北京是")
