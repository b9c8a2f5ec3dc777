"""POST /extract over real HTTP, on a model of two random layers: its answers follow the schema, and mean nothing."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.extraction import Extractor
from src.extraction.formats.format import Status
from src.extraction.plan import Constraint
from src.generation.engines.openai_engine import OpenAIEngine
from src.serving.app import create_app
from src.serving.served import ServedModel
from src.serving.settings import Settings
from tests.serving.serving_live import in_thread
from tests.serving.test_app import error, events

TEXT = "Marie Curie was born in Warsaw. She worked in Paris."
EXAMPLES = [{"text": "Ada saw Oslo.", "answer": {"person": ["Ada"], "place": ["Oslo"]}}]


def extract(url: str, **body: Any) -> httpx.Response:
    wanted = {"task": "ner", "schema": "person_org_place", "max_tokens": 24, **body}
    return httpx.post(url + "/extract", json=wanted, timeout=120)


def test_items_come_with_places_statuses_and_counts(tiny: str) -> None:
    found = extract(tiny, text=TEXT, max_tokens=64).json()
    assert (found["object"], found["model"], found["task"]) == ("extraction", "tiny", "ner")
    assert (found["schema"], found["format"], found["constraint"]) == ("person_org_place", "oneke", "extractive")
    (document,) = found["documents"]
    for item in document.get("entity", ()):
        assert TEXT[item["start"] : item["end"]] == item["entity"]
        assert item["entity_type"] in ("person", "organization", "place")
    assert sum(document["report"]["statuses"].values()) == document["report"]["requests"] == 1
    assert found["usage"]["completion_tokens"] == document["report"]["completion_tokens"] > 0
    assert found["usage"]["prompt_tokens"] == document["report"]["prompt_tokens"] > 0


def test_documents_keep_their_names_and_their_order(tiny: str) -> None:
    given = [TEXT, {"text": TEXT * 60, "id": "long", "title": "Curie"}, {"text": "Ada."}]
    found = extract(tiny, documents=given, schema=["person"], constraint="json").json()
    assert [document["id"] for document in found["documents"]] == ["0", "long", "2"]
    assert found["documents"][1]["report"]["requests"] > 2  # more than the engine does at a time


def test_the_schema_may_be_given_whole(tiny: str) -> None:
    schema = {"name": "mine", "relations": {"born in": {"head": "person", "tail": "place"}}}
    found = extract(tiny, text=TEXT, task="spo", schema=schema).json()
    assert found["schema"] == "mine" and found["task"] == "spo"


def test_scores_are_given_where_they_are_asked_for(tiny: str) -> None:
    texts = [f"{name} saw {place}." for name in ("Ada", "Marie", "王明") for place in ("Oslo", "Warsaw", "北京")]
    with_scores = extract(tiny, documents=texts, scores=True, max_tokens=64).json()
    items = [item for document in with_scores["documents"] for item in document.get("entity", [])]  # of random weights
    assert items and all(0 <= item["score"] <= 1 for item in items)
    assert all("score" not in item for item in extract(tiny, text=TEXT).json()["documents"][0].get("entity", []))


def test_examples_are_in_each_prompt_and_permutations_ask_again(tiny: str) -> None:
    plain = extract(tiny, text=TEXT).json()["usage"]["prompt_tokens"]
    shown = extract(tiny, text=TEXT, examples=EXAMPLES).json()["usage"]["prompt_tokens"]
    assert shown > plain + len("Ada saw Oslo.") // 6
    found = extract(tiny, text=TEXT, permutations=3, vote="majority").json()
    assert found["documents"][0]["report"]["requests"] == 3


def test_a_model_without_template_is_asked_plainly(tiny: str) -> None:
    assert extract(tiny, text=TEXT, model="plain").status_code == 200


def test_a_stream_says_how_far_it_is_and_ends_with_the_same(tiny: str) -> None:
    whole = extract(tiny, text=TEXT * 20).json()
    *parts, last = events(extract(tiny, text=TEXT * 20, stream=True).text)
    assert {key: last[key] for key in ("documents", "usage")} == {key: whole[key] for key in ("documents", "usage")}
    assert parts[0]["answers"] == 0 and parts[-1]["answers"] == parts[-1]["of"] == len(
        last["documents"][0]["report"]["chunks"]
    )
    assert [part["answers"] for part in parts] == sorted(part["answers"] for part in parts)


def test_named_schemas_are_listed_and_can_be_sent_back(tiny: str) -> None:
    listed = httpx.get(tiny + "/extract/schemas").json()["data"]
    names = {(each["id"], each["language"]) for each in listed}
    assert {("person_org_place", "en"), ("person_org_place", "zh")} <= names
    chosen = next(each for each in listed if (each["id"], each["language"]) == ("person_org_place", "zh"))
    by_name = extract(tiny, text="何明光生于长田市。", language="zh").json()["documents"]
    assert extract(tiny, text="何明光生于长田市。", schema=chosen["schema"]).json()["documents"] == by_name


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"schema": "/etc/passwd"}, "schema", "there is no schema '/etc/passwd': choose one of"),
        ({"schema": "../schema/people"}, "schema", "there is no schema"),
        ({"schema": []}, "schema", "a list of types"),
        ({"schema": {"en": [1]}}, "schema", "'en' of a schema"),
        ({"schema": {"properties": {"a": {"anyOf": 5}}}}, "schema", "are lists"),
        ({"schema": {"properties": {"a": {"$ref": "#/properties/a"}}}}, "schema", "circle"),
        ({"schema": [str(number) for number in range(300)]}, "schema", "300 entries"),
        ({"schema": {"entities": ["a"] * 200, "relations": ["b"] * 200}}, "schema", "400 types"),
        ({"schema": {"relations": [{"name": "r", "head": ["a"] * 200, "tail": ["b"] * 200}]}}, "schema", "40000 pairs"),
        ({"schema": {"entities": [{"name": "x", "description": "d " * 9000}]}}, "schema", "longer than the model's"),
        ({"text": None, "documents": [{"text": "a", "title": "t" * 2000}]}, "documents[0].title", "at most 1000"),
        ({"text": None, "documents": ["a", {"id": "x"}]}, "documents[1].text", "Field required"),
        ({"text": None, "documents": ["a", 5]}, "documents[1]", "is a text, or an object"),
        ({"schema": ["x" * 70_000]}, "schema", "too large"),
        ({"task": "ee"}, "schema", "no events"),
        ({"task": "nerd"}, "task", "'ner'"),
        ({"text": "  "}, "text", "empty"),
        ({"text": None}, "text", "either"),
        ({"documents": ["a"]}, "text", "either"),
        ({"text": None, "documents": ["a"] * 65}, "documents", "65 entries"),
        ({"text": None, "documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]}, "documents", "the id 'x'"),
        ({"text": TEXT * 3000, "schema": [str(n) for n in range(200)]}, "documents", "answers of the model"),
        ({"format": "knowlm", "constraint": "json"}, "constraint", "needs JSON answers"),
        ({"max_tokens": 500}, "max_tokens", "max_tokens"),
        ({"split_num": 0}, "split_num", "split_num"),
        ({"examples": EXAMPLES, "format": "knowlm"}, "examples", "leave them out"),
        ({"examples": [{"text": "x " * 5000, "answer": {}}]}, "examples", "longer than the model's context"),
        ({"examples": [{"text": "Ada."}]}, "examples[0].answer", "Field required"),
        ({"examples": EXAMPLES * 33}, "examples", "at most 32"),
        ({"permutations": 17}, "permutations", "less than or equal to 16"),
        ({"vote": "all"}, "vote", "'union'"),
        ({"text": TEXT * 1500, "permutations": 16}, "documents", "answers of the model"),
    ],
)
def test_what_can_not_be_is_told_with_its_key(tiny: str, body: dict[str, Any], param: str, said: str) -> None:
    response = extract(tiny, **{"text": TEXT, **body})
    assert response.status_code == 400
    found = error(response)
    assert said in found["message"] and found["param"] == param


def test_an_unknown_model_is_a_404(tiny: str) -> None:
    assert extract(tiny, text=TEXT, model="none").status_code == 404


def test_answers_are_counted_by_how_they_could_be_read(tiny: str) -> None:
    def counted() -> float:
        lines = httpx.get(tiny + "/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("knowlm_extraction_answers_total{"))

    before = counted()
    extract(tiny, text=TEXT, constraint="free")
    assert counted() == before + 1


def test_the_limits_of_a_key_hold(tiny_models: list[ServedModel], tmp_path: Path) -> None:
    settings = Settings(tokens_per_minute=100, log_file=str(tmp_path / "log"), log_prompts=True)
    with in_thread(create_app(tiny_models, settings)) as url:
        assert extract(url, text=TEXT).status_code == 200  # 170 tokens
        refused = extract(url, text=TEXT)
        assert refused.status_code == 429 and refused.headers["retry-after"]
    first = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert first["route"] == "/extract" and first["prompt"] == [TEXT] and first["completion_tokens"] > 0


def test_others_are_served_while_a_long_document_is_read_and_its_work_ends_with_its_client(
    tiny: str, tiny_log: Path
) -> None:
    body = {"task": "ner", "schema": "person_org_place", "text": TEXT * 2500, "max_tokens": 24, "stream": True}
    with httpx.stream("POST", tiny + "/extract", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert '"answers":0' in next(lines)
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        assert httpx.post(tiny + "/v1/chat/completions", json=chat, timeout=60).status_code == 200
        progress = json.loads(next(line for line in lines if line).removeprefix("data: "))
        assert progress["answers"] < progress["of"] > 100
    end = time.monotonic() + 20
    while not any(line["status"] == 499 for line in map(json.loads, tiny_log.read_text().splitlines())):
        assert time.monotonic() < end, "it was not broken off"
        time.sleep(0.1)
    text = httpx.get(tiny + "/metrics").text
    assert all(line.endswith(" 0.0") for line in text.splitlines() if line.startswith("knowlm_running{"))


KEYS = st.sampled_from(
    [
        *("entities", "relations", "events", "records", "en", "zh", "language", "name", "head", "tail", "roles"),
        *("properties", "$ref", "items", "anyOf", "type", "description", "attributes", "predicate", "arguments"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | KEYS, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(JSON, st.sampled_from(["ner", "re", "spo", "ee", "eet", "eea", "kg"]))
def test_any_schema_is_an_answer_or_a_sentence(tiny: str, schema: Any, task: str) -> None:
    response = extract(tiny, text="Ada.", schema=schema, task=task, max_tokens=4)
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        assert error(response)["message"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ner", "spo"])
def test_an_endpoint_is_held_to_the_json_schema_of_each_question(tiny: str, task: str) -> None:
    def statuses(**how: Any) -> list[Status]:
        with closing(OpenAIEngine(tiny + "/v1", "tiny")) as engine:
            extractor = Extractor(engine, max_new_tokens=96, **how)
            assert extractor.constraint is how.get("constraint", Constraint.JSON)
            found = list(extractor.extract_many([TEXT, "王明 saw Oslo."], "person_org_place", task))
            cut = [Status.CLOSED if each.truncated else Status.EXACT for each in found]
            assert how or [set(each.statuses) for each in found] == [{status} for status in cut]
            return [status for each in found for status in each.statuses]

    statuses()
    assert set(statuses(constraint=Constraint.FREE)) == {Status.FAILED}  # the weights are random
