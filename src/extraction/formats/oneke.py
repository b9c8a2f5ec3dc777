"""OneKE's and IEPile's way of asking: the user's message is one JSON object, and so is the answer.

``{"instruction", "schema", "input"}``, with ``"example"`` before ``"input"`` where examples are shown, written by
`json.dumps` with its default separators: the bytes that the checkpoints were trained on (IEPile, arXiv 2402.14710;
OneKE, github.com/zjunlp/DeepKE, ``example/llm/OneKE.md``). The instruction strings and the shapes of ``schema`` are
part of what the checkpoints know and are kept to the letter.

Descriptions are given as OneKE was taught them. Entities, relations and event types (EET): one object from name to
description. Events with arguments: one object from event type to ``{event type: its description, "trigger": true,
"arguments": {role: description}}``. Records: their attributes as an object. SPO has no form with descriptions, so they
are left out. A name without a description among others with one is described by itself, as in OneKE's examples.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from src.extraction.formats.answers import answer_object, stated_items, without_repeats
from src.extraction.formats.format import Note, Parsed
from src.extraction.items import Items
from src.extraction.schema import (
    Element,
    EventType,
    Example,
    Language,
    Question,
    RecordType,
    RelationType,
    Role,
    Task,
)
from src.models.conversation import Message

__all__ = ["EXAMPLE_SENTENCE", "INSTRUCTIONS", "OneKE", "instruction_of", "task_of_instruction"]

_RE_ZH = (
    "你是专门进行关系抽取的专家。请从input中抽取出符合schema定义的关系三元组，不存在的关系返回空列表。"
    "请按照JSON字符串的格式回答。"
)
_RE_EN = (
    "You are an expert in relationship extraction. Please extract relationship triples that match the schema "
    "definition from the input. Return an empty list for relationships that do not exist. Please respond in the "
    "format of a JSON string."
)

INSTRUCTIONS: Mapping[Language, Mapping[Task, str]] = {
    "zh": {
        Task.NER: (
            "你是专门进行实体抽取的专家。请从input中抽取出符合schema定义的实体，不存在的实体类型返回空列表。"
            "请按照JSON字符串的格式回答。"
        ),
        Task.RE: _RE_ZH,
        Task.SPO: _RE_ZH,
        Task.EE: (
            "你是专门进行事件提取的专家。请从input中抽取出符合schema定义的事件，不存在的事件返回空列表，"
            "不存在的论元返回NAN，如果论元存在多值请返回列表。请按照JSON字符串的格式回答。"
        ),
        Task.EET: (
            "你是专门进行事件提取的专家。请从input中抽取出符合schema定义的事件类型及事件触发词，"
            "不存在的事件返回空列表。请按照JSON字符串的格式回答。"
        ),
        Task.EEA: (
            "你是专门进行事件论元提取的专家。请从input中抽取出符合schema定义的事件论元及论元角色，"
            "不存在的论元返回NAN或空字典，如果论元存在多值请返回列表。请按照JSON字符串的格式回答。"
        ),
        Task.KG: (
            "你是一个图谱实体知识结构化专家。根据输入实体类型(entity type)的schema描述，从文本中抽取出相应的实体实例"
            "和其属性信息，不存在的属性不输出, 属性存在多值就返回列表，并输出为可解析的json格式。"
        ),
    },
    "en": {
        Task.NER: (
            "You are an expert in named entity recognition. Please extract entities that match the schema definition "
            "from the input. Return an empty list if the entity type does not exist. Please respond in the format of a "
            "JSON string."
        ),
        Task.RE: _RE_EN,
        Task.SPO: _RE_EN,
        Task.EE: (
            "You are an expert in event extraction. Please extract events from the input that conform to the schema "
            "definition. Return an empty list for events that do not exist, and return NAN for arguments that do not "
            "exist. If an argument has multiple values, please return a list. Respond in the format of a JSON string."
        ),
        Task.EET: (
            "You are an expert in event extraction. Please extract event types and event trigger words from the input "
            "that conform to the schema definition. Return an empty list for non-existent events. Please respond in "
            "the format of a JSON string."
        ),
        Task.EEA: (
            "You are an expert in event argument extraction. Please extract event arguments and their roles from the "
            "input that conform to the schema definition, which already includes event trigger words. If an argument "
            "does not exist, return NAN or an empty dictionary. Please respond in the format of a JSON string."
        ),
        Task.KG: (
            "You are an expert in structured knowledge systems for graph entities. Based on the schema description of "
            "the input entity type, you extract the corresponding entity instances and their attribute information "
            "from the text. Attributes that do not exist should not be output. If an attribute has multiple values, a "
            "list should be returned. The results should be output in a parsable JSON format."
        ),
    },
}

# OneKE knows the Chinese sentence only; the English one is ours, in the same words.
EXAMPLE_SENTENCE: Mapping[Language, str] = {
    "zh": "你可以参考example进行抽取。",
    "en": " You can refer to the example for extraction.",
}

# Marks of the other wordings in circulation, for reading files (an older SPO one says "spo关系三元组").
_MARKS: tuple[tuple[str, Task, Language], ...] = (
    ("SPO三元组抽取", Task.SPO, "zh"),
    ("图谱实体知识结构化", Task.KG, "zh"),
    ("事件论元提取", Task.EEA, "zh"),
    ("事件类型及事件触发词", Task.EET, "zh"),
    ("事件提取", Task.EE, "zh"),
    ("关系抽取", Task.RE, "zh"),
    ("实体抽取", Task.NER, "zh"),
    ("graph entities", Task.KG, "en"),
    ("event argument extraction", Task.EEA, "en"),
    ("event trigger words", Task.EET, "en"),
    ("event extraction", Task.EE, "en"),
    ("relationship extraction", Task.RE, "en"),
    ("named entity recognition", Task.NER, "en"),
)


class OneKE:
    """The prompts and answers of OneKE and of the models that IEPile trained; a `PromptFormat`."""

    name = "oneke"
    is_json = True

    def message(self, question: Question, text: str) -> Message:
        """The user's message: instruction, schema, examples and text as one JSON object."""
        content: dict[str, Any] = {"instruction": instruction_of(question), "schema": schema_of(question)}
        if question.examples:
            content["example"] = [_example(example) for example in question.examples]
        return Message("user", json.dumps(content | {"input": text}, ensure_ascii=False))

    def answer(self, question: Question, items: Items, text: str) -> str:
        """The right answer as a line of JSON, keys in the order asked for, items in the order of the text."""
        return json.dumps(answer_object(question, items, text), ensure_ascii=False)

    def parse(self, answer: str, question: Question, text: str, strict: bool = False) -> Parsed:
        """Read an answer by the ladder of `src.extraction.formats.parsing`; ``strict`` takes exact JSON only."""
        from src.extraction.formats.parsing import parse_object

        found, status = parse_object(answer, strict)
        notes: Counter[Note] = Counter()
        stated = stated_items(question, found, notes) if found is not None else Items()
        items, repeats = without_repeats(stated, notes)
        return Parsed(items, status, notes, repeats)


def instruction_of(question: Question) -> str:
    """The sentence that says what to do, for the question's task, language and whether examples are shown."""
    sentence = INSTRUCTIONS[question.language][question.task]
    return sentence + (EXAMPLE_SENTENCE[question.language] if question.examples else "")


def task_of_instruction(sentence: str) -> tuple[Task, Language] | None:
    """Task and language that an instruction sentence asks for; None for one of no known wording."""
    return next(((task, language) for mark, task, language in _MARKS if mark in sentence), None)


def schema_of(question: Question) -> list[Any] | dict[str, Any]:
    """The value of ``schema``: a list of elements, or one object from name to description."""
    if question.task in (Task.NER, Task.RE, Task.EET):
        return _named(question.elements)
    events = [element for element in question.elements if isinstance(element, EventType)]
    if any(event.description or any(role.description for role in event.roles) for event in events):
        return {event.name: _described(question, event) for event in events}
    return [_element(question, element) for element in question.elements]


def _element(question: Question, element: Element) -> dict[str, Any]:
    if isinstance(element, RelationType):
        return {"subject_type": element.head_type, "predicate": element.name, "object_type": element.tail_type}
    if isinstance(element, RecordType):
        return {"entity_type": element.name, "attributes": _named(element.attributes)}
    if isinstance(element, EventType):
        return {"event_type": element.name} | _trigger(question, element) | {"arguments": _named(element.roles)}
    raise TypeError(f"{element!r} is not something that task {question.task} asks for")


def _described(question: Question, event: EventType) -> dict[str, Any]:
    arguments = {role.name: role.description or role.name for role in event.roles}
    return {event.name: event.description or event.name} | _trigger(question, event) | {"arguments": arguments}


def _trigger(question: Question, event: EventType) -> dict[str, Any]:
    if question.task is Task.EE:
        return {"trigger": True}
    return {"trigger": list(question.triggers[event.name])} if event.name in question.triggers else {}


def _named(elements: Iterable[Element | Role]) -> list[str] | dict[str, str]:
    each = list(elements)
    if any(element.description for element in each):
        return {element.name: element.description or element.name for element in each}
    return [element.name for element in each]


def _example(example: Example) -> dict[str, Any]:
    return {"input": example.text, "output": dict(example.answer)}
