"""The extractor with a model that knows a few names, and with a real one."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from src.errors import UserError
from src.extraction import Extractor
from src.extraction.documents import Document
from src.extraction.extractor import (
    Constraint,
    choose_constraint,
    estimated_tokens,
    format_of,
    warn_of_float16,
)
from src.extraction.formats.format import Status, load_format
from src.extraction.items import Argument, Entity, Event, Span
from src.extraction.prompts_only import PromptsOnly
from src.extraction.schema import EventType, Role, Schema
from src.generation.engine import Capability, Decoding, Request
from src.models.spec import ModelSpec
from src.models.zoo import find_model
from tests.extraction.dictionary_engine import DictionaryEngine

KNOWN = {"person": {"Ada": "Ada", "Bo": "Bo"}, "place": {"Bern": "Bern", "Rome": "Rome"}}
SENTENCE = "Ada and some other people went on foot, by train and at last by ship. "


@pytest.fixture
def engine() -> DictionaryEngine:
    return DictionaryEngine(KNOWN)


def test_a_text_gives_its_items_with_places(engine: DictionaryEngine) -> None:
    found = Extractor(engine).extract("Bo met Ada in Rome.", ["person", "place"], "NER")
    assert found.items.entities == (
        Entity("Bo", "person", Span(0, 2)),
        Entity("Ada", "person", Span(7, 10)),
        Entity("Rome", "place", Span(14, 18)),
    )
    assert found.statuses == {Status.EXACT: 1} and found.sample.text == "Bo met Ada in Rome."


def test_a_long_text_is_cut_and_each_chunk_gives_its_part(engine: DictionaryEngine) -> None:
    text = SENTENCE * 30 + "Bo lives in Bern."
    found = Extractor(engine, max_chunk_tokens=200).extract(text, ["person", "place"], "ner")
    assert [entity.text for entity in found.items.entities] == ["Ada", "Bo", "Bern"]
    assert all(text[entity.span.start : entity.span.end] == entity.text for entity in found.items.entities)
    assert len(found.chunks) > 3 and [chunk.new for chunk in found.chunks] == [1] + [0] * (len(found.chunks) - 2) + [2]


def test_documents_come_in_order_while_the_engine_stays_full(engine: DictionaryEngine) -> None:
    texts = [SENTENCE * (20 - number) + f"Person {number}." for number in range(20)]
    taken: list[int] = []

    def documents() -> Iterator[Document]:
        for number, text in enumerate(texts):
            taken.append(number)
            yield Document(f"d{number}", text)

    found = Extractor(engine).extract_many(documents(), ["person"], "ner")
    first = next(found)
    assert first.sample.id == "d0" and len(taken) <= 10  # the rest is not read yet
    assert [each.sample.id for each in found] == [f"d{number}" for number in range(1, 20)]
    assert engine.most_running == 2 * engine.max_parallel


def test_leaving_early_stops_the_work(engine: DictionaryEngine) -> None:
    found = Extractor(engine).extract_many((SENTENCE for _ in range(1000)), ["person"], "ner")
    next(found)
    found.close()
    assert engine.running == 0 and len(engine.seen) < 50


def test_blank_documents_have_no_items_and_a_blank_text_is_refused(engine: DictionaryEngine) -> None:
    found = list(Extractor(engine).extract_many(["Ada", " ", "Bo"], ["person"], "ner"))
    assert [len(each.items) for each in found] == [1, 0, 1]
    with pytest.raises(UserError, match="the text is empty"):
        Extractor(engine).extract(" ", ["person"], "ner")


def test_two_steps_ask_for_arguments_of_found_triggers_only() -> None:
    answer = {"arguments": {"seller": "Al", "price": "NAN"}}
    events = Schema(events=(EventType("sale", (Role("seller"), Role("price"))), EventType("trip", (Role("to"),))))

    class Knowing(DictionaryEngine):
        def _value(self, name: str, text: str) -> object:
            return (
                ([answer] if '"arguments"' in self.seen[-1].messages[-1].text else ["sold"]) if name == "sale" else []
            )

    engine = Knowing({}, max_parallel=1)
    engine_of_two = Extractor(engine, two_step=True)
    found = engine_of_two.extract("Al sold it.", events, "ee")
    assert found.items.events == (Event("sale", "sold", (Argument("Al", "seller", Span(0, 2)),), Span(3, 7)),)
    assert len(engine.seen) == 2 and "trip" not in engine.seen[1].messages[-1].text


def test_scores_come_from_the_tokens(engine: DictionaryEngine) -> None:
    found = Extractor(engine, confidence=True).extract("Ada", ["person"], "ner")
    assert found.items.entities[0].score == pytest.approx(2.718281828 ** (-0.1 * 3))
    engine.capabilities = frozenset()
    with pytest.raises(UserError, match="confidence needs log probabilities"):
        Extractor(engine, confidence=True)


def test_the_doctor_shows_prompt_answer_and_what_was_read(engine: DictionaryEngine) -> None:
    (seen,) = Extractor(engine).explain("Ada", ["person"], "ner")
    shown = json.loads(json.dumps(seen.as_dict()))
    assert json.loads(shown["prompt"])["input"] == "Ada" and shown["constraint"] == ""
    assert (shown["answer"], shown["status"], shown["asked"]) == ('{"person": ["Ada"]}', "exact", ["person"])
    assert shown["items"] == {"entity": [{"entity": "Ada", "entity_type": "person", "start": 0, "end": 3}]}


def test_a_prompt_that_leaves_no_room_for_text_is_said_before_anything_runs(engine: DictionaryEngine) -> None:
    with pytest.raises(UserError, match="leave 0 of the context's 2048 tokens to the text"):
        Extractor(engine, max_new_tokens=2040).extract("Ada", ["person"], "ner")
    assert engine.seen == []


def test_auto_is_as_much_as_engine_and_format_can_do() -> None:
    oneke, old = load_format("oneke"), load_format("knowlm")
    both = frozenset({Capability.GRAMMAR, Capability.JSON_SCHEMA})
    assert choose_constraint("auto", oneke, both) is Constraint.EXTRACTIVE
    assert choose_constraint("auto", oneke, frozenset({Capability.JSON_SCHEMA})) is Constraint.JSON
    assert choose_constraint("auto", oneke, frozenset()) is Constraint.FREE
    assert choose_constraint("auto", old, both) is Constraint.FREE
    with pytest.raises(UserError, match="constraint=extractive is more than the engine can do"):
        choose_constraint("extractive", oneke, frozenset({Capability.JSON_SCHEMA}))
    with pytest.raises(UserError, match="constraint=strict is not known: choose one of auto, free, json, extractive"):
        choose_constraint("strict", oneke, both)


def test_unknown_options_and_formats_are_refused(engine: DictionaryEngine) -> None:
    with pytest.raises(UserError, match="'chunk' is no option"):
        Extractor(engine, chunk=5)
    with pytest.raises(UserError, match="format=xml is not known"):
        Extractor(engine, "xml")
    with pytest.raises(UserError, match="'chunk' is no option"):
        Extractor.from_pretrained("no model is looked for", chunk=5)


def test_each_known_checkpoint_has_its_format_and_oneke_in_float16_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = ("oneke", "knowlm_13b_ie", "knowlm_13b_zhixi", "smollm2_135m")
    assert [format_of(find_model(name)) for name in names] == ["oneke", "knowlm", "zhixi", "oneke"]
    half = SimpleNamespace(model=SimpleNamespace(dtype="torch.float16"))
    with caplog.at_level(logging.WARNING):
        warn_of_float16(find_model("smollm2_135m"), half)  # type: ignore[arg-type]
        assert not caplog.records
        warn_of_float16(find_model("oneke"), half)  # type: ignore[arg-type]
    assert "set dtype=bfloat16" in caplog.text


def test_tokens_of_an_endpoint_are_estimated_rather_too_high() -> None:
    assert estimated_tokens("abcdef") == 2 and estimated_tokens("中文") == 4 and estimated_tokens("") == 0


def test_the_package_can_be_imported_without_torch() -> None:
    code = "import sys; from src.extraction import Extractor; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_can_be_looked_at_without_weights(smollm2: ModelSpec) -> None:
    engine, talks = PromptsOnly.of(smollm2)
    assert talks
    (seen,) = Extractor(engine, max_chunk_tokens=64).preview("Ada \U0001f600", ["person"], "ner")
    assert seen.prompt.startswith("<|im_start|>system") and '"input": "Ada \U0001f600"' in seen.prompt
    assert seen.prompt_tokens == engine.check(seen.request) and "substring_chunks" in seen.constraint
    with pytest.raises(UserError, match="no model to answer"):
        engine.generate([Request("a", prompt="x", decoding=Decoding())])


def test_a_chunk_of_the_budget_fits_into_the_prompt(smollm2: ModelSpec) -> None:
    engine, _ = PromptsOnly.of(smollm2, context_length=400)
    extractor = Extractor(engine, max_new_tokens=100)
    seen = extractor.preview('He said "no",\nand left — 然后。 ' * 60, ["person"], "ner")
    assert len(seen) > 3 and all(each.prompt_tokens + 100 <= 400 for each in seen)
    assert max(each.prompt_tokens for each in seen) > 250


@pytest.mark.parametrize("constraint", ["json", "extractive"])
def test_a_model_of_random_weights_gives_answers_that_can_be_read(llama_tiny: ModelSpec, constraint: str) -> None:
    text = 'Ada met "Bo"\n in Bern — 然后。'
    settings = {"constraint": constraint, "dtype": "float32", "max_new_tokens": 48}
    with Extractor.from_pretrained(llama_tiny, **settings) as extractor:
        for task, schema in {"ner": ["person", "place"], "ee": "news_events"}.items():
            found = extractor.extract(text, schema, task)
            assert set(found.statuses) == {Status.EXACT}, found
            assert constraint == "json" or not found.notes.get("not_in_text")


@pytest.mark.slow
def test_the_embedded_model_extracts_with_places_and_scores(smollm2: ModelSpec) -> None:
    texts = ["Marie Curie was born in Warsaw.", "Alan Turing worked in Manchester."]
    settings = {"dtype": "float32", "max_new_tokens": 32, "confidence": True}
    with Extractor.from_pretrained(smollm2, **settings) as extractor:
        assert extractor.constraint is Constraint.EXTRACTIVE
        found = list(extractor.extract_many(texts, ["person", "place"], "ner"))
    assert all(set(each.statuses) == {Status.EXACT} and each.items.entities for each in found)
    for each in found:
        for entity in each.items.entities:
            assert each.sample.text[slice(*entity.span)] == entity.text and 0 < entity.score < 1
