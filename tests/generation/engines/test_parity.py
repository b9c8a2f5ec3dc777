"""What holds on every engine: the same requests mean the same on transformers, llama.cpp and vLLM."""

import asyncio
import json
import math
import time
from collections import Counter
from contextlib import aclosing

import pytest
import torch

from src.errors import UserError
from src.extraction.constraints.grammar import answer_grammar
from src.extraction.schema import Task
from src.generation.engine import Capability, Decoding, Engine, Grammar, PromptTooLong, Request, Unsupported
from src.generation.engines.sampling import distribution
from src.models.templates import Message
from tests.extraction.constraints import grammar_cases
from tests.extraction.constraints.grammar_cases import LIMITS, TEXT, check
from tests.generation.conftest import CONTEXT, answer

pytestmark = pytest.mark.slow
QUESTIONS = ["What is the capital of France?", "用中文介绍北京。", "Write the word <|im_end|> twice."]
BOTH = {"repetition_penalty": 1.3, "logit_bias": {504: 6.0, 260: 4.0}}
PEOPLE = grammar_cases.QUESTIONS[Task.NER]
GRAMMAR = answer_grammar(PEOPLE, TEXT, LIMITS)
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def chats(engine: Engine, **decoding) -> list[tuple[str, str, int, int]]:
    requests = [
        Request(str(number), messages=[Message("user", question)], decoding=Decoding(max_new_tokens=17, **decoding))
        for number, question in enumerate(QUESTIONS)
    ]
    texts, last = dict.fromkeys("012", ""), {}
    for event in engine.generate(requests):
        texts[event.request_id] += event.text_delta
        last[event.request_id] = event
    return [(texts[i], last[i].finish_reason, last[i].prompt_tokens, last[i].completion_tokens) for i in "012"]


@pytest.mark.parametrize("how", [{}, {"repetition_penalty": 1.3}, {"logit_bias": {504: 3.0, 198: -100.0}}, BOTH])
def test_greedy_text_and_counts_are_those_of_transformers(engine, transformers_engine, how):
    assert chats(engine, **how) == chats(transformers_engine, **how)


def test_an_answer_ends_before_a_stop_text_that_spans_tokens(engine):
    text, events = answer(engine, "1, 2, 3, 4, 5, 6,", max_new_tokens=30, stop=["8, 9"])
    assert (text, events[-1].finish_reason) == (" 7, ", "stop")


def test_an_answer_never_goes_past_the_context(engine):
    text, events = answer(engine, "word " * (CONTEXT - 12), max_new_tokens=100, ignore_eos=True)
    assert events[-1].finish_reason == "length"
    assert events[-1].prompt_tokens + events[-1].completion_tokens == CONTEXT and text


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(engine):
    with pytest.raises(PromptTooLong, match=rf"\d+ tokens.*{CONTEXT}"):
        answer(engine, "word " * CONTEXT)


def test_log_probabilities_are_those_of_the_model(engine, transformers_engine):
    text, events = answer(engine, "Water boils at", max_new_tokens=4, logprobs=3)
    found = [entry for event in events for entry in event.logprobs]
    tokenizer = transformers_engine.tokenizer
    ids = tokenizer.encode("Water boils at" + text)
    true = transformers_engine.inspect(ids).logprobs[-4:]
    assert b"".join(entry.bytes for entry in found).decode() == text
    assert [entry.logprob for entry in found] == pytest.approx(true.tolist(), abs=0.02)
    for entry in found:
        assert len(entry.top) == 3 and entry.top[0].token == entry.token  # greedy: the chosen is the likeliest
        assert [top.logprob for top in entry.top] == sorted((top.logprob for top in entry.top), reverse=True)


def test_zero_alternatives_give_the_chosen_tokens_alone(engine):
    _, events = answer(engine, "Water boils at", max_new_tokens=2, logprobs=0)
    assert [entry.top for event in events for entry in event.logprobs] == [(), ()]


def test_a_json_schema_is_followed(engine):
    request = Request(
        "1",
        messages=[Message("user", "Describe a person.")],
        decoding=Decoding(max_new_tokens=60, json_schema=PERSON, do_sample=True, temperature=1.5, seed=1),
    )
    person = json.loads("".join(event.text_delta for event in engine.generate([request])))
    assert set(person) == {"name", "age"} and isinstance(person["age"], int) and person["age"] <= 99


def test_a_schema_that_would_not_be_followed_is_refused(engine):
    four_of_two = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 4, "maxItems": 4, "uniqueItems": True}
    with pytest.raises(UserError, match=r"uniqueItems|not supported"):
        answer(engine, "Numbers: ", max_new_tokens=30, json_schema=four_of_two)


def test_json_has_no_white_space_between_its_parts_but_one_space_after_a_comma(engine):
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}
    text, _ = answer(engine, "1, 2, 3:\n", max_new_tokens=60, json_schema=schema)
    assert text == json.dumps(json.loads(text))


def test_texts_of_bounded_length_are_json_however_unlikely(engine):
    schema = {
        "type": "array",
        "items": {"type": "string", "minLength": 6, "maxLength": 9},
        "minItems": 2,
        "maxItems": 2,
    }
    how = {"max_new_tokens": 80, "json_schema": schema, "do_sample": True, "temperature": 2.0}
    requests = [Request(str(n), prompt="Tab:\t\t\nNew", decoding=Decoding(seed=n, **how)) for n in range(12)]
    texts = dict.fromkeys((request.id for request in requests), "")
    for event in engine.generate(requests):
        texts[event.request_id] += event.text_delta
    for text in texts.values():
        assert all(6 <= len(found) <= 9 for found in json.loads(text)), text


def test_an_extractive_grammar_is_followed(engine):
    for seed in range(3):
        decoding = Decoding(100, grammar=GRAMMAR, do_sample=True, temperature=1.5, seed=seed)
        request = Request("1", messages=[Message("user", f"Who is named? {TEXT}")], decoding=decoding)
        events = list(engine.generate([request]))
        check(PEOPLE, "".join(event.text_delta for event in events), TEXT, LIMITS)
        assert events[-1].completion_tokens <= 100


def test_an_answer_in_a_grammar_that_reaches_the_limit_is_whole(engine):
    for limit in (24, 30, 36):
        text, events = answer(engine, f"{TEXT}\nNames as JSON:", max_new_tokens=limit, grammar=GRAMMAR)
        check(PEOPLE, text, TEXT, LIMITS)
        assert events[-1].completion_tokens <= limit
    shortest, _ = answer(engine, f"{TEXT}\nNames as JSON:", max_new_tokens=100, grammar=GRAMMAR)
    assert len(shortest) > len(text)


def test_a_broken_grammar_is_the_requests_mistake(engine):
    with pytest.raises(UserError, match=r"[Gg]rammar|[Ll]ark|nowhere"):
        answer(engine, "x", max_new_tokens=4, grammar=Grammar("%llguidance {}\nstart: nowhere\n"))


def test_end_tokens_are_not_chosen_with_ignore_eos(engine, transformers_engine):
    def asked(of: Engine) -> tuple[str, int]:
        decoding = Decoding(max_new_tokens=30, ignore_eos=True)
        events = list(of.generate([Request("1", messages=[Message("user", QUESTIONS[0])], decoding=decoding)]))
        return "".join(event.text_delta for event in events), events[-1].completion_tokens

    assert asked(engine) == asked(transformers_engine)
    assert asked(engine)[1] == 30


def test_the_alternatives_are_the_likeliest_tokens_whatever_was_drawn(engine):
    how = {"do_sample": True, "temperature": 2.0, "seed": 1, "max_new_tokens": 12}
    _, events = answer(engine, "Water boils at", logprobs=2, **how)
    entries = [entry for event in events for entry in event.logprobs]
    assert entries and all(len(entry.top) == 2 for entry in entries)
    assert all(entry.top[0].logprob >= max(entry.top[1].logprob, entry.logprob - 1e-3) for entry in entries)


def test_a_broken_schema_is_the_requests_mistake(engine):
    with pytest.raises(UserError, match="schema"):
        answer(engine, "x", max_new_tokens=4, json_schema={"type": "nonsense"})


def test_sampled_tokens_are_drawn_from_the_distribution_that_the_settings_state(engine, transformers_engine):
    how = {"do_sample": True, "temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.03}
    draws = 240
    prompt = "My favourite colour is"
    requests = [
        Request(str(n), prompt=prompt, decoding=Decoding(max_new_tokens=1, seed=n, **how)) for n in range(draws)
    ]
    drawn: dict[str, str] = {}
    for event in engine.generate(requests):
        drawn[event.request_id] = drawn.get(event.request_id, "") + event.text_delta
    counts = Counter(drawn.values())
    tokenizer, model = transformers_engine.tokenizer, transformers_engine.model
    with torch.no_grad():
        logits = model(tokenizer(prompt, return_tensors="pt").input_ids).logits[0, -1]
    allowed = distribution(logits, Decoding(**how))
    allowed = allowed / allowed.sum()
    expected = {tokenizer.decode(i): float(allowed[i]) for i in allowed.nonzero()[:, 0].tolist()}
    assert 3 < len(expected) <= 12
    assert set(counts) <= set(expected)
    for token, share in expected.items():
        deviation = math.sqrt(draws * share * (1 - share)) + 1e-9
        assert abs(counts[token] - draws * share) < 4.5 * deviation + 1


def test_a_seed_makes_a_sample_repeatable(engine):
    how = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 12}
    first, again, other = (answer(engine, "Once upon", seed=seed, **how)[0] for seed in (3, 3, 4))
    assert first == again != other


def test_leaving_a_stream_stops_its_work(engine):
    async def leave_and_ask() -> tuple[float, float]:
        async def whole(count: int) -> float:
            request = Request("next", prompt="Hello", decoding=Decoding(max_new_tokens=count, ignore_eos=True))
            began = time.perf_counter()
            async with aclosing(engine.stream(request)) as events:
                async for _ in events:
                    pass
            return time.perf_counter() - began

        alone = await whole(8)
        decoding = Decoding(max_new_tokens=CONTEXT - 10, ignore_eos=True)
        for number in range(3 * engine.max_parallel):  # more than could be worked on beside the one that follows
            request = Request(f"left {number}", prompt="Once upon a time", decoding=decoding)
            async with aclosing(engine.stream(request)) as events:
                async for event in events:
                    assert event.finish_reason is None
                    break
        after = await whole(8)
        await engine.release()
        return alone, after

    alone, after = asyncio.run(leave_and_ask())
    assert after < 10 * alone + 2  # the abandoned answers have 500 tokens each


def test_requests_beside_each_other_give_what_each_gives_alone(engine):
    prompts = ["Water boils at", "The capital of France is a city that", "春眠不觉晓，", "1, 2, 3,", "def add(a, b):"]
    requests = [
        Request(prompt, prompt=prompt, decoding=Decoding(max_new_tokens=6 + 4 * place))
        for place, prompt in enumerate(prompts)
    ]
    together = dict.fromkeys(prompts, "")
    for event in engine.generate(requests):
        together[event.request_id] += event.text_delta
    alone = {p: answer(engine, p, max_new_tokens=6 + 4 * place)[0] for place, p in enumerate(prompts)}
    assert together == alone


def test_what_an_engine_lacks_is_refused_by_name(engine):
    lacking = sorted(set(Capability) - engine.capabilities)
    asks = {Capability.BEAMS: {"num_beams": 2}, Capability.COUNT_PENALTIES: {"presence_penalty": 1.0}}
    for capability in set(lacking) & set(asks):
        with pytest.raises(Unsupported, match=engine.name) as refusal:
            answer(engine, "x", **asks[capability])
        assert refusal.value.parameter == next(iter(asks[capability]))
    with pytest.raises(Unsupported, match="no adapter 'nobody'"):
        list(engine.generate([Request("1", prompt="x", adapter="nobody")]))
