"""An extractor beside annotated texts: scores, files, and the way of a training."""

import json

import pytest

from src.errors import UserError
from src.extraction.extractor import Extractor
from src.extraction.schema import Task
from src.extraction.scoring.evaluation import evaluate_extractor, evaluate_in_step, read_gold
from src.extraction.scoring.scoring import Counts
from tests.extraction.dictionary_engine import DictionaryEngine

KNOWN = {
    "person": {"Curie": "Curie", "Nobel": "Nobel"},
    "city": {"Warsaw": "Warsaw"},
    "died": {"died": {"trigger": "died", "arguments": {"who": "Curie", "when": "NAN"}}},
}
ROWS = [
    {"id": "a", "text": "Curie died in Warsaw.", "entity": [("Curie", "person"), ("Warsaw", "city")]},
    {"id": "b", "text": "Nobel knew Bertha.", "entity": [("Nobel", "person"), ("Bertha", "person"), ("knew", "verb")]},
]


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "dev.jsonl"
    lines = []
    for row in ROWS:
        entities = [{"entity": text, "entity_type": type} for text, type in row["entity"]]
        event = {"event_trigger": "died", "event_type": "died", "arguments": [{"argument": "Curie", "role": "who"}]}
        lines.append(json.dumps(row | {"entity": entities, "event": [event] if row["id"] == "a" else []}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def extractor():
    return Extractor(DictionaryEngine(KNOWN), constraint="free")


def test_what_is_found_is_scored_beside_what_the_schema_asks_for(samples, extractor):
    seen = []
    result = evaluate_extractor(extractor, read_gold(samples, ["person", "city"], Task.NER), done=seen.append)
    score = result.report.scores[Task.NER]["entity"]
    assert score.total == Counts(3, 3, 4)  # the verb is not asked for
    assert score.by_type == {"city": Counts(1, 1, 1), "person": Counts(2, 2, 3)}
    assert [each.sample.id for each in seen] == ["a", "b"] and result.documents_per_second > 0


def test_scores_and_predictions_are_written(samples, extractor, tmp_path):
    result = evaluate_extractor(extractor, read_gold(samples, ["person", "city"], Task.NER))
    result.save(tmp_path / "out", draws=50)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["f1"] == pytest.approx(100 * 6 / 7) and metrics["documents"] == 2
    assert metrics["tasks"]["ner"]["entity"]["by_source"]["dev"]["right"] == 3
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    second = json.loads(lines[1])
    assert second["missed"] == [["person", "Bertha"]] and second["wrong"] == []
    assert second["entity"][0]["entity"] == "Nobel" and len(second["gold"]["entity"]) == 2


def test_the_way_of_a_training_finds_the_same(samples):
    schema = {"name": "s", "entities": ["person", "city"], "events": [{"name": "died", "roles": ["who", "when"]}]}
    for task, options in ((Task.NER, {}), (Task.EE, {}), (Task.EE, {"two_step": True})):
        extractor = Extractor(DictionaryEngine(KNOWN), constraint="free", **options)
        gold = read_gold(samples, schema, task)
        one, other = evaluate_extractor(extractor, gold), evaluate_in_step(extractor, gold)
        assert [each.items for each in one.extractions] == [each.items for each in other.extractions]
        assert one.report.scores == other.report.scores
        assert one.report.f1 > 0 or options  # the dictionary has no triggers alone


def test_the_limit_and_names_to_read_are_kept(samples, tmp_path):
    schema = tmp_path / "s.yaml"
    schema.write_text("entities: [person, city]\nreadable: {person: human being}\n", encoding="utf-8")
    gold = read_gold(samples, str(schema), Task.NER, readable=True, limit=1)
    assert [sample.id for sample in gold.samples] == ["a"]
    assert [entity.type for entity in gold.samples[0].items.entities] == ["human being", "city"]
    assert [element.name for element in gold.schema.entities] == ["human being", "city"]


def test_samples_of_a_topic_are_asked_with_its_schema(tmp_path, extractor):
    schema = tmp_path / "topics.json"
    topics = {"人物": [["人物_出生地点_地点"], ["出生地点"]], "产品": [["产品_品牌_组织"], ["品牌"]]}
    schema.write_text(json.dumps(topics, ensure_ascii=False), encoding="utf-8")
    rows = [
        {
            "id": "1",
            "cate": "人物",
            "text": "甲生于乙",
            "relation": [{"head": "甲", "relation": "出生地点", "tail": "乙"}],
        },
        {
            "id": "2",
            "cate": "产品",
            "text": "丙是丁",
            "relation": [{"head": "丙", "relation": "出生地点", "tail": "丁"}],
        },
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    gold = read_gold(path, str(schema), Task.RE)
    assert [len(sample.items) for sample in gold.samples] == [1, 0]  # a product has no place of birth
    evaluate_extractor(extractor, gold)
    asked = {json.loads(request.messages[-1].content)["schema"][0] for request in extractor.engine.seen}
    assert asked == {"出生地点", "品牌"}


def test_a_file_without_texts_is_refused(tmp_path):
    (tmp_path / "dev.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="empty"):
        read_gold(tmp_path / "dev.jsonl", ["person"], Task.NER)


def test_a_schema_of_other_types_than_those_annotated_is_refused(samples):
    with pytest.raises(UserError, match=r"\(animal, …\).*person, city, verb, …"):
        read_gold(samples, ["animal"], Task.NER)
