"""Answers that follow a grammar, on a model with random weights: forced tokens, completion in time, beams, batches."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from src.errors import UserError
from src.extraction.constraints.grammar import Limits, answer_grammar
from src.extraction.schema import EntityType, EventType, Question, Role, Task
from src.generation.engine import Decoding, Event, PromptTooLong, Request
from src.generation.engines.grammar import follow
from src.generation.engines.transformers_engine import TransformersEngine
from src.generation.prompts import PromptEncoder
from src.models.fast_tokenizer import describe_sentencepiece
from src.models.load import load_for_generation
from src.models.templates import Message, load_template
from tests.extraction.constraints.grammar_cases import check
from tests.models.test_fast_tokenizer import trained

TEXTS = [
    "Ada Lovelace met Charles Babbage in London.",
    '国务院总理李克强😀在北京会见了"John"。\nOK',
    "Apple is in Paris.",
]
PEOPLE = Question(Task.NER, (EntityType("person"), EntityType("organization"), EntityType("地点")))
EVENTS = Question(Task.EE, (EventType("meeting", (Role("who"), Role("where"))), EventType("裁员", (Role("裁员方"),))))
LIMITS = Limits(4, 16)


@pytest.fixture(scope="module")
def model(llama_tiny):
    torch.manual_seed(0)
    model, tokenizer = load_for_generation(llama_tiny)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # logits far apart, so that no rounding decides
    return model, tokenizer


@pytest.fixture
def engine(model) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(*model, batch_size=3)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def byte_fallback() -> TransformersEngine:
    """An engine whose tokens are Llama 2's kind: spaces are part of words, and rare characters are single bytes."""
    backend = Tokenizer.from_str(describe_sentencepiece(trained()))
    strip = decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return TransformersEngine(model, tokenizer, None, batch_size=3)


def ask(question: Question = PEOPLE, **how) -> list[Request]:
    decoding = {"max_new_tokens": 200, **how}
    return [
        Request(text, prompt=f"Text: {text}\nAnswer:", decoding=Decoding(**decoding, grammar=grammar))
        for text in TEXTS
        for grammar in [answer_grammar(question, text, LIMITS)]
    ]


def answers(engine: TransformersEngine, requests: list[Request]) -> dict[str, tuple[str, Event, list]]:
    """Text, last event and log probabilities of each."""
    found: dict[str, tuple[str, Event, list]] = {}
    for event in engine.generate(requests):
        text, _, logprobs = found.get(event.request_id, ("", event, []))
        found[event.request_id] = (text + event.text_delta, event, [*logprobs, *event.logprobs])
    return found


def texts(engine: TransformersEngine, requests: list[Request]) -> dict[str, tuple[str, str | None, int]]:
    found = answers(engine, requests)
    return {name: (text, last.finish_reason, last.completion_tokens) for name, (text, last, _) in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"repetition_penalty": 1.3}, {"do_sample": True, "temperature": 2.0, "seed": 3}])
@pytest.mark.parametrize("question", [PEOPLE, EVENTS])
def test_forced_tokens_read_together_give_what_they_give_one_by_one_alone_and_in_a_batch(engine, question, how):
    expected = {}
    engine.step_cost = 0
    for request in ask(question, **how):
        expected |= texts(engine, [request])
    for cost in (0, 10, 10_000):
        engine.step_cost = cost
        assert texts(engine, ask(question, **how)) == expected
        assert texts(engine, ask(question, **how, logprobs=0)) == expected
    for name, (text, reason, _) in expected.items():
        check(question, text, name, LIMITS)
        assert reason == "stop"


def test_fewer_steps_are_taken_where_tokens_are_forced(engine):
    calls = []
    handle = engine.model.register_forward_hook(lambda *_: calls.append(1))
    [(_, last, _)] = answers(engine, ask()[:1]).values()
    handle.remove()
    assert len(calls) < 0.8 * last.completion_tokens


@pytest.mark.parametrize("cost", [0, 10_000])
def test_log_probabilities_of_forced_tokens_are_the_models_own(engine, cost):
    engine.step_cost = cost
    for name, (text, _, logprobs) in answers(engine, ask(logprobs=2)).items():
        prompt = engine.tokenizer.encode(f"Text: {name}\nAnswer:")
        ids = [*prompt, *engine.tokenizer.encode(text)]
        assert b"".join(entry.bytes for entry in logprobs).decode() == text
        if len(ids) == len(prompt) + len(logprobs):  # else the model has chosen other tokens for the same text
            true = engine.inspect(ids).logprobs[len(prompt) :]
            assert [entry.logprob for entry in logprobs] == pytest.approx(true.tolist(), abs=1e-3)
        assert all(len(entry.top) == 2 for entry in logprobs)


@pytest.mark.slow
@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("question", [PEOPLE, EVENTS])
def test_an_answer_is_whole_and_never_longer_than_the_limit(engine, question, logprobs):
    reasons = set()
    for limit in (16, 21, 27, 40):
        requests = ask(question, max_new_tokens=limit, logprobs=logprobs, do_sample=True, temperature=2.0, seed=limit)
        for name, (text, last, entries) in answers(engine, requests).items():
            check(question, text, name, LIMITS)
            assert last.completion_tokens <= limit
            reasons.add(last.finish_reason)
            if logprobs is not None:
                assert b"".join(entry.bytes for entry in entries).decode() == text
    assert reasons == {"stop", "length"}


def test_a_limit_below_the_shortest_answer_is_refused(engine):
    with pytest.raises(UserError, match=r"max_new_tokens is 5, .* has \d\d tokens"):
        texts(engine, ask(max_new_tokens=5))
    engine.limit_context(30)
    with pytest.raises(PromptTooLong, match="leaves"):
        texts(engine, [Request("1", prompt="word " * 20, decoding=ask()[0].decoding)])


@pytest.mark.slow
@pytest.mark.parametrize("beams", [2, 4])
def test_beams_follow_the_grammar_and_end_in_time_alone_and_in_a_batch(engine, beams):
    for question, limit in ((PEOPLE, 20), (EVENTS, 40), (PEOPLE, 200)):
        requests = ask(question, max_new_tokens=limit, num_beams=beams)
        together = texts(engine, requests)
        assert texts(engine, requests[1:2]).items() <= together.items()
        for name, (text, reason, tokens) in together.items():
            check(question, text, name, LIMITS)
            assert tokens <= limit and reason == ("stop" if limit == 200 else reason)


def test_beams_follow_a_json_schema(engine):
    schema = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 2, "maxItems": 2}
    decoding = Decoding(max_new_tokens=30, num_beams=3, json_schema=schema)
    found = texts(engine, [Request("1", prompt="Colours:", decoding=decoding)])
    assert len(json.loads(found["1"][0])) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [{}, {"logprobs": 0}, {"do_sample": True, "temperature": 2.0, "seed": 1}, {"num_beams": 3}]
)
def test_a_vocabulary_of_word_marks_and_single_bytes_is_held_to_the_grammar_too(byte_fallback, how):
    for limit in (90, 300):
        for name, (text, last, logprobs) in answers(byte_fallback, ask(max_new_tokens=limit, **how)).items():
            check(PEOPLE, text, name, LIMITS)
            assert last.completion_tokens <= limit
            assert not logprobs or b"".join(entry.bytes for entry in logprobs).decode().lstrip() == text.lstrip()


def test_an_answer_closed_before_its_first_character_has_log_probabilities_of_its_own(byte_fallback):
    """Its first token is a lone word mark, of which there is no text; the prompt's last token is then read again."""
    tokenizer = byte_fallback.tokenizer
    mark = tokenizer.convert_tokens_to_ids("\u2581")
    request = ask(logprobs=0, logit_bias={mark: 100.0})[0]
    needed = len(follow(request.decoding, tokenizer, frozenset({tokenizer.eos_token_id})).closing(""))
    [(text, last, entries)] = answers(
        byte_fallback, [replace(request, decoding=replace(request.decoding, max_new_tokens=needed))]
    ).values()
    assert (last.finish_reason, last.completion_tokens, len(entries)) == ("length", needed, needed)
    check(PEOPLE, text, TEXTS[0], LIMITS)
    prompt = byte_fallback.prompts.encode(request).ids
    ids = [*prompt, *follow(request.decoding, tokenizer, frozenset({tokenizer.eos_token_id})).closing("")]
    true = byte_fallback.inspect(ids).logprobs[len(prompt) :]
    assert [entry.logprob for entry in entries] == pytest.approx(true.tolist(), abs=1e-3)


def test_an_answer_that_cannot_go_on_ends_no_other(engine):
    def broken(text: str) -> str:
        if len(text) > 5:
            raise ValueError("no such answer")
        return "{}"

    good, other = ask()[:2]
    bad = replace(
        other,
        decoding=replace(other.decoding, grammar=replace(other.decoding.grammar, close=broken, longest_close=None)),
    )

    async def one(request: Request) -> str:
        return "".join([event.text_delta async for event in engine.stream(request)])

    async def both() -> list[str | BaseException]:
        return await asyncio.gather(one(good), one(bad), return_exceptions=True)

    text, failure = asyncio.run(both())
    assert text == texts(engine, [good])[good.id][0]
    assert isinstance(failure, ValueError)
    with pytest.raises(ValueError, match="no such answer"):
        texts(engine, [good, bad])


def test_a_templates_stop_texts_end_no_answer_that_has_a_form(engine):
    encoder = PromptEncoder(engine.tokenizer, load_template("llama2", engine.tokenizer), 512)
    messages = [Message("user", "Hello")]
    free, schema = Decoding(stop=["X"]), Decoding(stop=["X"], json_schema={})
    assert encoder.encode(Request("1", messages=messages, decoding=free)).stop == ["X", "[INST]"]
    for how in (schema, ask(stop=["X"])[0].decoding):
        assert encoder.encode(Request("1", messages=messages, decoding=how)).stop == ["X"]


def test_a_stop_text_ends_an_answer_among_forced_tokens(engine):
    for cost in (0, 10_000):
        engine.step_cost = cost
        for text, reason, _ in texts(engine, ask(stop=["organiz"])).values():
            assert text.endswith('], "') and reason == "stop"


def test_streams_beside_each_other_follow_their_own_grammars(engine):
    async def one(request: Request) -> str:
        return "".join([event.text_delta async for event in engine.stream(request)])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(one, [*ask(), *ask(EVENTS)]))

    found = asyncio.run(all_of_them())
    expected = [text for question in (PEOPLE, EVENTS) for text, _, _ in texts(engine, ask(question)).values()]
    assert sorted(found) == sorted(expected)
