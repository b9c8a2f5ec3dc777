"""Questions of all seven tasks with awkward names, an awkward text, and tools to hold answers against them."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema

from src.extraction.constraints.grammar import Limits, answer_schema
from src.extraction.constraints.shape import NAN
from src.extraction.schema import EntityType, EventType, Question, RecordType, RelationType, Role, Task

TEXT = '中华人民共和国的首都是"北京"，Ada Lovelace 😀 lives\nin New\tYork, \\ 2.5 км. \x01'
LIMITS = Limits(max_items=3, max_span_chars=12)
_EVENTS = (
    EventType("组织关系-裁员", (Role("裁员方"), Role("时间"))),
    EventType('say "hi"', (Role("who\\"), Role("who\\"))),
    EventType("rain"),
)
QUESTIONS: dict[Task, Question] = {
    Task.NER: Question(Task.NER, (EntityType("人物"), EntityType('a "b" \\ c'), EntityType("line\nbreak"))),
    Task.RE: Question(Task.RE, (RelationType("born in"), RelationType("父母"))),
    Task.SPO: Question(Task.SPO, (RelationType("作者", "书", "人物"), RelationType("作者", "歌", "人物"))),
    Task.EE: Question(Task.EE, _EVENTS),
    Task.EET: Question(Task.EET, _EVENTS),
    Task.EEA: Question(Task.EEA, _EVENTS, triggers={"组织关系-裁员": ("裁员", "裁 了")}),
    Task.KG: Question(Task.KG, (RecordType("人物", (Role("别名"), Role("父母"), Role("a"))), RecordType("empty"))),
}


def spans(question: Question, answer: dict[str, Any]) -> Iterator[str]:
    """The texts of an answer that must come from the text: not ``NAN``, nor triggers that the question gives."""
    given = {trigger for triggers in question.triggers.values() for trigger in triggers}

    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        else:
            for inner in value.values() if isinstance(value, dict) else value:
                yield from leaves(inner)

    for value in answer.values():
        if question.task is Task.KG:
            yield from (name for name in value if name != NAN)
        yield from (text for text in leaves(value) if text != NAN and text not in given)


def check(question: Question, answer: str, text: str | None, limits: Limits = LIMITS) -> None:
    """Hold an answer against the question's schema, the order of its names, and the text."""
    data = json.loads(answer)
    assert jsonschema.Draft202012Validator(answer_schema(question, limits)).is_valid(data), answer
    assert list(data) == list(dict.fromkeys(question.names))
    if question.task is not Task.KG:  # in which a record's name may come twice
        assert answer.strip() == json.dumps(data, ensure_ascii=False)
    if text is not None:
        assert all(span in text for span in spans(question, data)), answer
