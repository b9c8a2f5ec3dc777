"""A right answer of each kind with its question, and what it states: for tests of parsing and fuzzing."""

import json
from dataclasses import dataclass

from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EntityType, EventType, Question, RecordType, RelationType, Role, Task


@dataclass(frozen=True)
class Case:
    question: Question
    text: str
    items: Items
    answer: str


def _case(task: Task, elements: tuple, text: str, items: Items, answer: object) -> Case:
    return Case(Question(task, elements, "zh"), text, items, json.dumps(answer, ensure_ascii=False))


_LAYOFF = EventType("组织关系-裁员", (Role("裁员方"), Role("时间"), Role("裁员人数")))
_EVENT = Event("组织关系-裁员", "裁员", (Argument("5月份", "时间"), Argument("900余人", "裁员人数")))
_EVENT_TEXT = "消失的“外企光环”，5月份在华裁员900余人"

CASES: dict[Task, Case] = {
    Task.NER: _case(
        Task.NER,
        (EntityType("人物"), EntityType("组织机构")),
        "相比之下，青岛海牛队和广州松日队的雨中之战",
        Items((Entity("青岛海牛队", "组织机构"), Entity("广州松日队", "组织机构"))),
        {"人物": [], "组织机构": ["青岛海牛队", "广州松日队"]},
    ),
    Task.RE: _case(
        Task.RE,
        (RelationType("nationality"), RelationType("place of death")),
        'Thomas "Al" Edison died in West Orange.',
        Items(relations=(Relation('Thomas "Al" Edison', "place of death", "West Orange"),)),
        {"nationality": [], "place of death": [{"subject": 'Thomas "Al" Edison', "object": "West Orange"}]},
    ),
    Task.SPO: _case(
        Task.SPO,
        (RelationType("作者", "图书作品", "人物"),),
        "《邪少兵王》是冰火未央写的网络小说",
        Items(relations=(Relation("邪少兵王", "作者", "冰火未央", "图书作品", "人物"),)),
        {"作者": [{"subject": "邪少兵王", "object": "冰火未央"}]},
    ),
    Task.EE: _case(
        Task.EE,
        (_LAYOFF,),
        _EVENT_TEXT,
        Items(events=(_EVENT,)),
        {
            "组织关系-裁员": [
                {"trigger": "裁员", "arguments": {"裁员方": "NAN", "时间": "5月份", "裁员人数": "900余人"}}
            ]
        },
    ),
    Task.EET: _case(
        Task.EET,
        (EventType("组织关系-裁员"),),
        _EVENT_TEXT,
        Items(events=(Event("组织关系-裁员", "裁员"),)),
        {"组织关系-裁员": ["裁员"]},
    ),
    Task.EEA: _case(
        Task.EEA,
        (_LAYOFF,),
        _EVENT_TEXT,
        Items(events=(Event("组织关系-裁员", "", _EVENT.arguments),)),
        {"组织关系-裁员": [{"时间": "5月份", "裁员方": "NAN", "裁员人数": "900余人"}]},
    ),
    Task.KG: _case(
        Task.KG,
        (RecordType("人物", (Role("别名"), Role("父母"))),),
        "明治天皇出生，是孝明天皇的第二位皇子，母亲是英照皇太后，赐名睦仁。",
        Items(
            (Entity("明治天皇", "人物"),),
            (
                Relation("明治天皇", "别名", "睦仁", "人物"),
                Relation("明治天皇", "父母", "孝明天皇", "人物"),
                Relation("明治天皇", "父母", "英照皇太后", "人物"),
            ),
        ),
        {"人物": {"明治天皇": {"别名": "睦仁", "父母": ["孝明天皇", "英照皇太后"]}}},
    ),
}
