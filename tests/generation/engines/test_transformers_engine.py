"""The engine on the 135M model: batches, streams, seeds, limits; parity with transformers' own generate."""

import asyncio
import contextlib
import json
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from src.errors import UserError
from src.extraction.constraints.grammar import answer_grammar
from src.extraction.schema import EntityType, Question, Task
from src.generation.engine import Decoding, EngineDown, Request
from src.generation.engines.transformers_engine import TransformersEngine
from src.generation.setup import load_engine
from src.models.templates import Message, load_template

pytestmark = pytest.mark.slow
PROMPTS = ["Water boils at", "The capital of France is a city that", "春眠不觉晓，", "Repeat: 🙂🙂🙂🙂"]
PEOPLE = Question(Task.NER, (EntityType("person"),))
SHORT = Decoding(max_new_tokens=16)


@pytest.fixture(scope="module")
def loaded(smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    return AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32), tokenizer


def engine(loaded, **options):
    model, tokenizer = loaded
    return TransformersEngine(model, tokenizer, load_template(None, tokenizer), **options)


def texts(engine, decoding=SHORT, prompts=PROMPTS):
    result = {}
    for event in engine.generate([Request(prompt, prompt=prompt, decoding=decoding) for prompt in prompts]):
        result[event.request_id] = result.get(event.request_id, "") + event.text_delta
    return result


@pytest.mark.parametrize("decoding", [SHORT, Decoding(max_new_tokens=12, repetition_penalty=1.3)])
def test_a_batch_gives_what_each_prompt_gives_alone(loaded, decoding):
    assert texts(engine(loaded, batch_size=4), decoding) == texts(engine(loaded, batch_size=1), decoding)


@pytest.mark.parametrize("decoding", [SHORT, Decoding(max_new_tokens=8, num_beams=2)])
def test_greedy_and_beams_are_those_of_plain_transformers(loaded, decoding):
    model, tokenizer = loaded
    inputs = tokenizer(PROMPTS[1], return_tensors="pt")
    output = model.generate(
        **inputs, max_new_tokens=decoding.max_new_tokens, num_beams=decoding.num_beams, do_sample=False
    )
    expected = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert texts(engine(loaded), decoding, PROMPTS[1:2]) == {PROMPTS[1]: expected}


def test_a_seeded_sample_does_not_depend_on_its_neighbours_and_leaves_torch_alone(loaded):
    decoding = Decoding(max_new_tokens=10, do_sample=True, temperature=0.9, top_p=0.95, top_k=50, seed=7)
    before = torch.random.get_rng_state()
    together = texts(engine(loaded), decoding)
    assert together == texts(engine(loaded, batch_size=1), decoding)
    assert torch.equal(before, torch.random.get_rng_state())
    other = Decoding(max_new_tokens=10, do_sample=True, temperature=0.9, top_p=0.95, top_k=50, seed=8)
    assert together != texts(engine(loaded), other)


def test_rows_of_one_batch_end_on_their_own_limits_and_stop_texts(loaded):
    requests = [
        Request("short", prompt=PROMPTS[0], decoding=Decoding(max_new_tokens=3)),
        Request("stopped", prompt="1, 2, 3, 4, 5, 6,", decoding=Decoding(max_new_tokens=30, stop=[" 9"])),
        Request("chat", messages=[Message("user", "Say only: yes")], decoding=Decoding(max_new_tokens=40)),
    ]
    events, answers = {}, dict.fromkeys(["short", "stopped", "chat"], "")
    for event in engine(loaded).generate(requests):
        events[event.request_id] = event
        answers[event.request_id] += event.text_delta
    assert (events["short"].finish_reason, events["short"].completion_tokens) == ("length", 3)
    assert events["stopped"].finish_reason == "stop" and answers["stopped"] == " 7, 8,"
    assert events["chat"].finish_reason == "stop" and events["chat"].prompt_tokens > 10


def test_generating_leaves_every_module_in_the_mode_it_was_in(loaded):
    model, _ = loaded
    model.train()
    model.model.layers[0].eval()
    texts(engine(loaded), Decoding(max_new_tokens=2), PROMPTS[:1])
    assert model.training and not model.model.layers[0].training and model.model.layers[1].training
    model.eval()


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(loaded):
    with pytest.raises(UserError, match=r"9001 tokens.*8192"):
        texts(engine(loaded), SHORT, ["a" + " b" * 9000])


def test_messages_without_a_template_are_refused(loaded):
    with pytest.raises(UserError, match="template"):
        list(TransformersEngine(*loaded).generate([Request("1", messages=[Message("user", "hi")])]))


def test_weights_that_change_between_two_answers_change_the_second(loaded):
    one = engine(loaded)
    before = texts(one, prompts=PROMPTS[:1])
    with one.paused() as model, torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.neg_()
    after = texts(one, prompts=PROMPTS[:1])
    with one.paused() as model, torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight.neg_()
    assert after != before == texts(one, prompts=PROMPTS[:1])


def test_hidden_states_are_those_of_the_model_for_every_layer_and_token(loaded):
    model, tokenizer = loaded
    found = engine(loaded).inspect(PROMPTS[0])
    with torch.no_grad():
        output = model(tokenizer(PROMPTS[0], return_tensors="pt").input_ids, output_hidden_states=True)
    assert found.hidden_states.shape == (31, len(found.ids), 576)
    assert torch.equal(found.hidden_states, torch.stack(output.hidden_states)[:, 0])
    assert found.logprobs[0] == 0 and (found.logprobs[1:] < 0).all()


def test_beams_are_streamed_and_abandoned_like_any_answer(loaded):
    one = engine(loaded)

    async def ask() -> tuple[str, float]:
        long = Request("long", prompt="Once upon", decoding=Decoding(max_new_tokens=2000, num_beams=2))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await anext(one.stream(long))
        began = time.monotonic()
        short = Request("short", prompt=PROMPTS[0], decoding=Decoding(max_new_tokens=4, num_beams=2))
        events = [event async for event in one.stream(short)]
        return "".join(event.text_delta for event in events), time.monotonic() - began

    text, took = asyncio.run(ask())
    assert text == texts(one, Decoding(max_new_tokens=4, num_beams=2), PROMPTS[:1])[PROMPTS[0]]
    assert took < 60  # 2000 tokens take minutes
    one.close()


def test_beams_of_unlike_requests_and_plain_ones_beside_each_other_give_what_each_gives_alone(loaded):
    requests = [
        Request("short", prompt=PROMPTS[0], decoding=Decoding(max_new_tokens=3, num_beams=2)),
        Request("long", prompt=PROMPTS[1], decoding=Decoding(max_new_tokens=9, num_beams=2)),
        Request("chat", messages=[Message("user", "Say only: yes")], decoding=Decoding(max_new_tokens=9, num_beams=2)),
        Request("plain", prompt=PROMPTS[0], decoding=SHORT),
    ]
    one = engine(loaded, batch_size=8)

    async def answer(request: Request) -> str:
        return "".join([event.text_delta async for event in one.stream(request)])

    async def ask() -> list[str]:
        async with asyncio.timeout(120):
            return await asyncio.gather(*map(answer, requests))

    together = asyncio.run(ask())
    one.close()
    alone = ["".join(event.text_delta for event in one.generate([request])) for request in requests]
    assert together == alone


def test_a_beam_search_does_not_hold_up_other_answers(loaded):
    one = engine(loaded)

    async def ask() -> bool:
        beams = Request("beams", prompt="Once", decoding=Decoding(max_new_tokens=600, num_beams=2, ignore_eos=True))
        search = asyncio.ensure_future(anext(one.stream(beams)))
        await asyncio.sleep(0.5)
        async for _ in one.stream(Request("plain", prompt=PROMPTS[0], decoding=SHORT)):
            pass
        held_up = search.done()
        search.cancel()
        return held_up

    assert not asyncio.run(ask())
    one.close()


def test_beams_have_the_adapter_that_each_request_names(smollm2, adapters):
    def beams(adapter: str | None, **options) -> str:
        one, _ = load_engine(smollm2, dtype="float32", context_length=128, **options)
        decoding = Decoding(max_new_tokens=6, num_beams=2)
        events = one.generate([Request("1", prompt=PROMPTS[1], decoding=decoding, adapter=adapter)])
        return "".join(event.text_delta for event in events)

    paths = {name: str(path) for name, path in adapters.items()}
    alone = [beams(None), beams(None, adapter_path=paths["first"]), beams(None, adapter_path=paths["second"])]
    assert [beams(name, adapters=paths) for name in (None, "first", "second")] == alone
    assert len(set(alone)) == 3

    one, _ = load_engine(smollm2, dtype="float32", context_length=128, adapters=paths)

    async def answer(adapter: str, beams: int) -> str:
        decoding = Decoding(max_new_tokens=6, num_beams=beams)
        stream = one.stream(Request(adapter, prompt=PROMPTS[1], decoding=decoding, adapter=adapter))
        return "".join([event.text_delta async for event in stream])

    async def ask() -> list[str]:
        return await asyncio.gather(answer("first", 2), answer("second", 1), answer("second", 2))

    (searched, plain, other), alone_plain = asyncio.run(ask()), asyncio.run(answer("second", 1))
    assert [searched, plain, other] == [alone[1], alone_plain, alone[2]]
    one.close()


@pytest.mark.parametrize("beams", [1, 4])
def test_answers_in_a_grammar_are_those_that_each_prompt_gets_alone(loaded, beams):
    grammars = {
        text: answer_grammar(PEOPLE, text) for text in ("Ada met Bob.", "In 1815 Ada Lovelace was born, and 京.")
    }
    requests = [
        Request(text, prompt=f"{text} People in it, as JSON:", decoding=Decoding(24, num_beams=beams, grammar=grammar))
        for text, grammar in grammars.items()
    ]

    def answers(requests, **options):
        found = dict.fromkeys((request.id for request in requests), "")
        for event in engine(loaded, **options).generate(requests):
            found[event.request_id] += event.text_delta
            assert event.completion_tokens <= 24
        return found

    together = answers(requests, batch_size=2)
    assert together == answers(requests[:1]) | answers(requests[1:])
    for text, answer in together.items():
        assert all(name in text for name in json.loads(answer)["person"] if name != "NAN")


def test_beams_do_not_go_with_what_is_chosen_token_by_token():
    for setting in ({"logprobs": 1}, {"presence_penalty": 1.0}, {"logit_bias": {1: 1.0}}):
        with pytest.raises(UserError, match="beam search does not go with"):
            Decoding(num_beams=2, **setting)


def test_a_closed_engine_ends_what_it_was_writing(loaded):
    one = engine(loaded)

    async def ask() -> None:
        request = Request("1", prompt="Once", decoding=Decoding(max_new_tokens=2000, ignore_eos=True))
        async for _ in one.stream(request):
            one.close()

    with pytest.raises(EngineDown):
        asyncio.run(ask())
    assert not one.is_ready()
