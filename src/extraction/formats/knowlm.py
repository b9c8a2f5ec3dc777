"""KnowLM's two text formats of 2023: answers in lines of brackets, from ZhiXi and from KnowLM-13B-IE.

An answer of KnowLM-13B-IE has a line for each item and ``NAN`` for each type without any; ZhiXi puts its items behind a
label, with commas between them. Both know four forms for entities and relations::

    (Paris,location)                 (Curie,born in,Warsaw)
    Entity is Paris,Entity Type is location
    location：Paris                  born in：Curie,Warsaw
    {'entity': 'Paris', 'entity_type': 'location'}

and one for events: ``(trigger,type,role#text;role#text)``, ``(trigger,type)`` where only triggers are asked for.

Reading is tolerant: any of the forms, list marks, labels, full-width punctuation, commas inside a text, a last item
that is cut off. What the forms can't say is lost in writing: a text with a line's end, and in ZhiXi's one with half a
pair of brackets.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from src.errors import UserError
from src.extraction.formats.answers import answer_object, is_none, without_repeats
from src.extraction.formats.format import Note, Parsed, Status
from src.extraction.formats.knowlm_prompts import FORMS, KNOWLM, LABELS, ZHIXI, ZHIXI_EVENTS
from src.extraction.formats.lenient_json import read_object
from src.extraction.items import Argument, Entity, Event, Items, Relation
from src.extraction.schema import EventType, Question, Task
from src.models.conversation import Message

TASKS = frozenset(KNOWLM["en"])
MAX_CHARS = 1_000_000
MAX_ITEM_CHARS = 2_000  # between two brackets
MAX_LINE_CHARS = 50_000
MAX_COMMAS = 64

_OPEN, _CLOSED = "(（", ")）"
_MARK = re.compile(r"\s*(?:[-*•]|\d{1,3}\s*[.、)）])?\s*")  # of a list
_BETWEEN = re.compile(r"[\s,，、;；.。\[\]]*")
_LABEL = re.compile(r".{0,60}[:：]")
_NOTHING = re.compile(r"(no\b.{0,40}\bfound|没有|不存在|未找到|无).{0,20}", re.IGNORECASE)
_KEYED = (
    re.compile(r"(?:实体是|Entity is)\s*(.*?)\s*[,，]?\s*(?:实体类型是|Entity Type is)\s*(.*)"),
    re.compile(
        r"(?:头实体是|Subject is)\s*(.*?)\s*[,，]\s*(?:关系是|Relation is)\s*(.*?)"
        r"\s*[,，]\s*(?:尾实体是|Object is)\s*(.*)"
    ),
)
_WRITTEN = {
    "zh": ("实体是{},实体类型是{}", "头实体是{},关系是{},尾实体是{}"),
    "en": ("Entity is {},Entity Type is {}", "Subject is {},Relation is {},Object is {}"),
}


@dataclass(frozen=True)
class KnowLM:
    """The prompts and answers of KnowLM-13B-IE (``knowlm``) and ZhiXi (``zhixi``); a `PromptFormat`.

    form: which of the four forms of entities and relations is asked for; all are read.
    """

    name: str = "knowlm"
    form: int = 0
    is_json = False

    def __post_init__(self) -> None:
        if self.name not in ("knowlm", "zhixi"):
            raise UserError(f"format={self.name} is not one of KnowLM's: choose knowlm or zhixi")
        if not 0 <= self.form < (4 if self.name == "knowlm" else 1):
            raise UserError(f"form {self.form} of {self.name} is not known: knowlm has 0 to 3, zhixi has 0")

    def message(self, question: Question, text: str) -> Message:
        """The user's message: the instruction, and the text as its input. Raises `UserError` for SPO and KG."""
        _check(question)
        templates = ZHIXI if self.name == "zhixi" and question.task in ZHIXI["en"] else KNOWLM
        sentence = templates[question.language][question.task]
        events = [element for element in question.elements if isinstance(element, EventType)]
        roles = {event.name: [role.name for role in event.roles] for event in events}
        schema: Any = list(question.names)
        if templates is KNOWLM and question.task in (Task.EE, Task.EEA):
            schema = roles
        triggers = [
            {"event_type": name, "event_trigger": word}
            for name in question.names
            for word in question.triggers.get(name, ())
        ]
        every_role = list(dict.fromkeys(role for names in roles.values() for role in names))
        # the checkpoints saw Python's spelling of lists and objects
        slots = {"schema": schema, "roles": every_role, "triggers": triggers}
        instruction = sentence.format(format=self._form(question), **{key: str(value) for key, value in slots.items()})
        return Message("user", instruction, text)

    def answer(self, question: Question, items: Items, text: str) -> str:
        """The right answer. Raises `UserError` for SPO and KG."""
        _check(question)
        right = answer_object(question, items, text)
        lines: list[str] = []
        for name in question.names:
            found = [self._line(question, name, each) for each in right[name]]
            lines += found or (["NAN"] if self.name == "knowlm" else [])
        if not set(lines) - {"NAN"}:
            lines = ["NAN"]
        label = LABELS.get(question.task, "") if self.name == "zhixi" and question.language == "zh" else ""
        return label + ("," if self.name == "zhixi" else "\n").join(lines)

    def parse(self, answer: str, question: Question, text: str, strict: bool = False) -> Parsed:
        """Read an answer in any of the forms; ``strict`` takes one that holds nothing else."""
        reader = _Reader(question, text, self.name == "zhixi" and question.language == "en")
        if question.task in TASKS and len(answer) <= MAX_CHARS:
            reader.read(answer)
        status = reader.status()
        if status is Status.FAILED or (strict and status is not Status.EXACT):
            return Parsed(Items(), Status.FAILED)
        items, repeats = without_repeats(reader.items(), reader.notes)
        return Parsed(items, status, reader.notes, repeats)

    def _form(self, question: Question) -> str:
        form = FORMS[question.language][question.task][self.form if question.task in (Task.NER, Task.RE) else 0]
        if self.name == "knowlm" or question.task not in ZHIXI["en"]:
            return form + "\n"
        if question.task is Task.EE:
            form = ZHIXI_EVENTS[question.language]
        if question.language == "zh":
            return f'"{form}"'
        return {Task.NER: "(Entity, Type)", Task.RE: "(Subject, Relation, Object)"}.get(question.task, form)

    def _line(self, question: Question, name: str, each: Any) -> str:
        if question.task in (Task.EE, Task.EEA):
            return self._event(question, name, each)
        fields = [each["subject"], name, each["object"]] if question.task is Task.RE else [each, name]
        if question.task is Task.EET or self.form == 0:
            spaced = self.name == "zhixi" and question.language == "en"
            return f"({(', ' if spaced else ',').join(fields)})"
        if self.form == 1:
            return _WRITTEN[question.language][len(fields) - 2].format(*fields)
        if self.form == 2:
            return f"{name}：{','.join(field for field in fields if field is not name)}"
        keys = ("head", "relation", "tail") if question.task is Task.RE else ("entity", "entity_type")
        return str(dict(zip(keys, fields, strict=True)))

    def _event(self, question: Question, name: str, event: dict[str, Any]) -> str:
        pairs = [
            (role, text)
            for role, texts in event["arguments"].items()
            if texts != "NAN"
            for text in (texts if isinstance(texts, list) else [texts])
        ] or [("NAN", "NAN")]
        if self.name == "knowlm" or question.task is Task.EEA:
            return f"({event['trigger']},{name},{';'.join(f'{role}#{text}' for role, text in pairs)})"
        if question.language == "en":
            return f"({name}, {event['trigger']}, {'; '.join(f'{role}#{text}' for role, text in pairs)})"
        return f"({event['trigger']},{name},[{','.join(f'({text},{role})' for role, text in pairs)}])"


def _check(question: Question) -> None:
    if question.task not in TASKS:
        raise UserError(
            f"KnowLM's text formats have no task={question.task}, only {', '.join(sorted(TASKS))}: set format=oneke"
        )


class _Reader:
    """Reads one answer line by line, and keeps what it had to do."""

    def __init__(self, question: Question, text: str, type_first: bool):
        self.question, self.text, self.type_first = question, text, type_first
        self.names = {_folded(name): name for name in question.names}
        self.roles = {
            element.name: {_folded(role.name): role.name for role in element.roles}
            for element in question.elements
            if isinstance(element, EventType)
        }
        self.found: list[Entity | Relation | Event] = []
        self.notes: Counter[Note] = Counter()
        self.said_nothing = self.passed_over = self.cut = False

    def status(self) -> Status:
        if not self.found and not self.said_nothing and not self.notes:
            return Status.FAILED
        if self.cut:
            return Status.CLOSED
        return Status.TRIMMED if self.passed_over or self.notes[Note.WRONG_SHAPE] else Status.EXACT

    def items(self) -> Items:
        return Items(
            tuple(item for item in self.found if isinstance(item, Entity)),
            tuple(item for item in self.found if isinstance(item, Relation)),
            tuple(item for item in self.found if isinstance(item, Event)),
        )

    def read(self, answer: str) -> None:
        label = LABELS.get(self.question.task, "")
        body = answer.strip()
        body = body[len(label.strip()) :] if label and body.startswith(label.strip()) else body
        for line in body.splitlines():
            if len(line) > MAX_LINE_CHARS:
                self.passed_over = True
                continue
            marked = _MARK.match(line)
            rest = line[marked.end() if marked else 0 :].strip()
            self.passed_over |= bool(marked and marked[0].strip())
            if is_none(rest.strip(".。")):
                self.said_nothing |= bool(rest)
            elif _NOTHING.fullmatch(rest):
                self.said_nothing = True
            else:
                self._line(rest)

    def _line(self, line: str) -> None:
        if self.question.task in (Task.NER, Task.RE) and self._plain(line):
            return
        start = min((place for place in map(line.find, ("(", "（", "{")) if place >= 0), default=-1)
        if start < 0:
            self.passed_over = True
        elif line[start] == "{":
            self._objects(line, start)
        elif fields := self._unbalanced(line):
            self._item(fields)
        else:
            self._groups(line)

    def _plain(self, line: str) -> bool:
        """Read one of the two forms without brackets; returns whether the line is one."""
        keyed = _KEYED[self.question.task is Task.RE].fullmatch(line) if len(line) <= MAX_ITEM_CHARS else None
        if keyed:
            self._item([field.strip() for field in keyed.groups()])
            return True
        colons = [found.start() for found in re.finditer("[:：]", line[:MAX_ITEM_CHARS])][:MAX_COMMAS]
        colon = next((each for each in reversed(colons) if _folded(line[:each]) in self.names), None)  # names hold some
        if colon is None:
            return False
        name, after = self.names[_folded(line[:colon])], line[colon + 1 :]
        fields = self._ends(after) if self.question.task is Task.RE else [after.strip()]
        if fields:
            self._item([fields[0], name, *fields[1:]])
        else:
            self.notes[Note.WRONG_SHAPE] += 1
        return True

    def _objects(self, line: str, start: int) -> None:
        self.passed_over |= bool(_BETWEEN.sub("", line[:start]))
        for begin in [found.start() for found in re.finditer("{", line)][:MAX_COMMAS]:
            value, complete = read_object(line, begin + 1)
            keys = ("head", "relation", "tail") if self.question.task is Task.RE else ("entity", "entity_type")
            if not complete:
                self.cut = True
            elif all(isinstance(value.get(key), str) for key in keys):
                self._item([value[key].strip() for key in keys])
            else:
                self.notes[Note.WRONG_SHAPE] += 1

    def _groups(self, line: str) -> None:
        end = 0
        for start, stop in _brackets(line):
            self.passed_over |= bool(_BETWEEN.sub("", line[end:start]))
            end = stop
            inside = line[start + 1 : stop - 1]
            if self.question.task in (Task.EE, Task.EEA):
                self._event(inside)
            elif (fields := self._split(inside, _commas(inside))) is not None:
                self._item(fields)
            else:
                self.notes[Note.WRONG_SHAPE] += 1
        rest = _BETWEEN.sub("", line[end:])
        if rest[:1] in tuple(_OPEN):
            self.cut = True
        else:
            self.passed_over |= bool(rest)

    def _unbalanced(self, line: str) -> list[str] | None:
        """The fields of a line that is one item with half a pair of brackets in a text; None where that is not sure."""
        count = [sum(map(line.count, brackets)) for brackets in (_OPEN, _CLOSED)]
        is_event = self.question.task in (Task.EE, Task.EEA)
        if is_event or count[0] == count[1] or line[0] not in _OPEN or line[-1] not in _CLOSED:
            return None
        inside = line[1:-1]
        commas = [found.start() for found in re.finditer("[,，]", inside)][:MAX_COMMAS]
        fields = self._split(inside, commas) if len(line) <= MAX_ITEM_CHARS else None
        if fields is None or _folded(fields[1]) not in self.names:
            return None
        return fields if all(each in self.text for each in (fields[0], *fields[2:])) else None

    def _split(self, inside: str, commas: Sequence[int]) -> list[str] | None:
        """Entity and type, or head, relation and tail, at the commas where the parts are what they should be."""
        if self.question.task is not Task.RE:
            return [inside[: commas[-1]].strip(), inside[commas[-1] + 1 :].strip()] if commas else None
        cuts = [
            [inside[:first].strip(), inside[first + 1 : second].strip(), inside[second + 1 :].strip()]
            for first, second in pairwise(commas)
        ]
        known = [cut for cut in cuts if _folded(cut[1]) in self.names]
        in_text = [cut for cut in known or cuts if cut[0] in self.text and (cut[2] in self.text or is_none(cut[2]))]
        return next(iter(in_text or known or cuts), None)

    def _ends(self, inside: str) -> list[str] | None:
        """Head and tail, cut at the comma where both are in the text."""
        cuts = [[inside[:comma].strip(), inside[comma + 1 :].strip()] for comma in _commas(inside)]
        if not cuts and is_none(inside):
            return ["", ""]
        return next((cut for cut in cuts if cut[0] in self.text and cut[1] in self.text), next(iter(cuts), None))

    def _item(self, fields: Sequence[str]) -> None:
        """Add an entity (text, type), a trigger (text, type) or a relation (head, relation, tail)."""
        name = self.names.get(_folded(fields[1]))
        if any(map(is_none, (fields[0], *fields[2:]))):
            self.said_nothing = True
        elif name is None:
            self.notes[Note.HALLUCINATED_SCHEMA] += 1
        elif self.question.task is Task.RE:
            self.found.append(Relation(fields[0], name, fields[2]))
        else:
            self.found.append((Entity if self.question.task is Task.NER else _trigger)(fields[0], name))

    def _event(self, inside: str) -> None:
        commas = [-1, *_commas(inside), len(inside)]
        places = list(range(len(commas) - 1))
        for index in places if self.type_first else [*places[1:], 0]:
            name = self.names.get(_folded(inside[commas[index] + 1 : commas[index + 1]]))
            if name is None:
                continue
            rest = inside[commas[index + 1] + 1 :]
            if index:
                trigger = inside[: commas[index]]
            else:  # type first
                trigger, _, rest = rest.partition(",")
            arguments = tuple(dict.fromkeys(self._arguments(rest, self.roles[name])))
            trigger = "" if is_none(trigger) else trigger.strip()
            if trigger or arguments:
                self.found.append(Event(name, trigger, arguments))
            self.said_nothing = True
            return
        self.notes[Note.HALLUCINATED_SCHEMA if len(commas) > 3 else Note.WRONG_SHAPE] += 1

    def _arguments(self, rest: str, roles: dict[str, str]) -> Iterator[Argument]:
        """``role#text;role#text``, the sides in either order, or ``[(text,role),(text,role)]``."""
        if rest.lstrip()[:1] == "[":
            inner = [rest[start + 1 : stop - 1] for start, stop in _brackets(rest)]
            pairs = [(text[: _commas(text)[-1]], text[_commas(text)[-1] + 1 :]) for text in inner if _commas(text)]
        else:
            parts: list[str] = []
            for part in re.split("[;；]", rest):
                if "#" in part or not parts:
                    parts.append(part)
                else:  # a semicolon inside a text
                    parts[-1] += ";" + part
            pairs = [(part.partition("#")[0], part.partition("#")[2]) for part in parts if "#" in part]
        for pair in pairs:
            one, other = (side.strip() for side in pair)
            if is_none(one) or is_none(other):
                continue
            if role := roles.get(_folded(one)):
                yield Argument(other, role)
            elif role := roles.get(_folded(other)):
                yield Argument(one, role)
            else:
                self.notes[Note.HALLUCINATED_SCHEMA] += 1


def _trigger(text: str, type: str) -> Event:
    return Event(type, text)


def _brackets(line: str) -> Iterator[tuple[int, int]]:
    """Places of the outermost pairs of round brackets, half or full width; those that are too long are passed over."""
    depth = start = 0
    for position, letter in enumerate(line):
        if letter in _OPEN:
            start = start if depth else position
            depth += 1
        elif letter in _CLOSED and depth:
            depth -= 1
            if depth == 0 and position - start <= MAX_ITEM_CHARS:
                yield start, position + 1


def _commas(text: str) -> list[int]:
    """Places of commas, half or full width, outside of brackets."""
    depth, places = 0, []
    for position, letter in enumerate(text):
        depth += (letter in "(（[［") - (letter in ")）]］")
        if letter in ",，" and depth <= 0:
            places.append(position)
    return places[:MAX_COMMAS]


def _folded(name: str) -> str:
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
