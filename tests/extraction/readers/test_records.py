"""The release layouts of data sets, by small records of their form."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.extraction.items import Items, Sample
from src.extraction.readers import detect_format, read_samples


def only(tmp_path: Path, row: dict[str, Any], expected: str) -> Sample:
    file = tmp_path / "set.json"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
    assert detect_format(file) == expected
    (sample,) = read_samples(file)
    return sample


def triples(items: Items) -> list[tuple[str, ...]]:
    return [(r.head_type, r.head, r.relation, r.tail, r.tail_type) for r in items.relations]


def test_iepiles_sample_with_a_topic(tmp_path: Path) -> None:
    row = {
        "id": "9",
        "cate": "人物",
        "text": "李伟生于北京",
        "relation": [{"head": "李伟", "relation": "出生", "tail": "北京"}],
    }
    sample = only(tmp_path, row, "sample")
    assert (sample.id, sample.category, sample.source) == ("9", "人物", "set")
    assert sample.items.relations[0].head_span == (0, 2) and sample.items.relations[0].tail_span == (4, 6)


def test_cluener_counts_the_last_character_in(tmp_path: Path) -> None:
    row = {"text": "彭小军到台湾", "label": {"address": {"台湾": [[4, 5]]}, "name": {"彭小军": [[0, 2]]}}}
    sample = only(tmp_path, row, "cluener")
    assert [(e.text, e.type, e.span) for e in sample.items.entities] == [
        ("彭小军", "name", (0, 3)),
        ("台湾", "address", (4, 6)),
    ]


def test_duie_slots_become_relations(tmp_path: Path) -> None:
    spo = {
        "predicate": "配音",
        "subject": "林簌",
        "subject_type": "娱乐人物",
        "object": {"inWork": "怪盗", "@value": "黑羽", "onDate": ""},
        "object_type": {"inWork": "影视作品", "@value": "人物"},
    }
    sample = only(tmp_path, {"text": "林簌在怪盗配音黑羽", "spo_list": [spo]}, "duie")
    assert sorted(triples(sample.items)) == [
        ("娱乐人物", "林簌", "配音", "黑羽", "人物"),
        ("娱乐人物", "林簌", "配音:inWork", "怪盗", "影视作品"),
    ]


def test_duies_first_version_has_texts_for_objects(tmp_path: Path) -> None:
    spo = {"predicate": "首都", "subject": "法国", "subject_type": "国家", "object": "巴黎", "object_type": "城市"}
    sample = only(tmp_path, {"text": "法国首都巴黎", "spo_list": [spo]}, "duie")
    assert triples(sample.items) == [("国家", "法国", "首都", "巴黎", "城市")]


def test_duee_events_with_their_indices(tmp_path: Path) -> None:
    event = {
        "event_type": "裁员",
        "trigger": "裁员",
        "trigger_start_index": 4,
        "arguments": [
            {"argument": "裁员", "role": "x", "argument_start_index": 6},
            {"argument": "公司", "role": "裁员方"},
        ],
    }
    sample = only(tmp_path, {"id": "a", "text": "公司今天裁员裁员", "event_list": [event]}, "duee")
    found = sample.items.events[0]
    assert (found.trigger, found.span) == ("裁员", (4, 6))
    assert [(one.text, one.span) for one in found.arguments] == [("裁员", (6, 8)), ("公司", (0, 2))]


def test_an_event_without_trigger_is_one(tmp_path: Path) -> None:
    event = {"event_type": "质押", "arguments": [{"argument": "甲", "role": "质押方"}]}
    sample = only(tmp_path, {"id": "a", "text": "甲质押", "event_list": [event]}, "duee")
    assert (sample.items.events[0].trigger, sample.items.events[0].span) == ("", None)


def test_spert_counts_tokens_and_entities(tmp_path: Path) -> None:
    row = {
        "tokens": ["Li", "Wei", "lives", "in", "Oslo"],
        "entities": [{"type": "Peop", "start": 0, "end": 2}, {"type": "Loc", "start": 4, "end": 5}],
        "relations": [{"type": "Live_In", "head": 0, "tail": 1}],
        "orig_id": 7,
    }
    sample = only(tmp_path, row, "spert")
    assert sample.id == "7" and triples(sample.items) == [("Peop", "Li Wei", "Live_In", "Oslo", "Loc")]
    assert sample.items.relations[0].tail_span == (16, 20)


@pytest.mark.parametrize(
    "labels",
    [
        {"relation": [{"head": "李伟", "relation": "出生地", "tail": "北京"}], "output": "(李伟,出生地,北京)"},
        {"kg": [["李伟", "出生地", "北京"]], "output": "x"},
        {"output": "(李伟,出生地,北京)"},
    ],
)
def test_knowlm_ie_in_each_of_its_forms(labels: dict[str, Any], tmp_path: Path) -> None:
    row = {"id": "3", "cate": "人物", "instruction": "抽取", "input": "李伟生于北京", **labels}
    sample = only(tmp_path, row, "knowlm_ie")
    assert triples(sample.items) == [("", "李伟", "出生地", "北京", "")] and sample.category == "人物"


def test_knowlm_ie_entities_and_unlabelled_rows(tmp_path: Path) -> None:
    row = {"id": "3", "cate": "人物", "instruction": "抽取", "input": "李伟"}
    assert only(tmp_path, row, "knowlm_ie").items == Items()
    sample = only(tmp_path, row | {"entity": [["李伟", "人物"]]}, "knowlm_ie")
    assert [(e.text, e.type, e.span) for e in sample.items.entities] == [("李伟", "人物", (0, 2))]
