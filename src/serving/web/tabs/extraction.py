"""Extraction: a text, a task and a schema that can be edited; the spans in the text, a table, a picture, a file."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import gradio as gr
import yaml

from src.errors import UserError
from src.extraction.schema import Task
from src.serving.routes.extracting import known_schemas
from src.serving.web.client import Piece
from src.serving.web.extraction_view import view
from src.serving.web.panel import MANY, Chosen, Page, Panel
from src.serving.web.streaming import Running
from src.serving.web.tabs.form import Form, Pieces, need

FIRST_SCHEMA = "person_org_place"
CONSTRAINTS = ("auto", "extractive", "json", "free")
MAX_SCHEMA_CHARACTERS = 20_000
MAX_BRACKETS = 64  # within each other; YAML takes minutes for some thousands


class ExtractionTab:
    """The tab; made inside the page's tabs, wired to the settings by `wire`."""

    models: Sequence[gr.Dropdown] = ()

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        self.schemas = {f"{each['id']} ({each['language']})": each["schema"] for each in known_schemas()}
        first = f"{FIRST_SCHEMA} ({texts('schema_language')})"
        with gr.Tab(texts("tab_extraction"), id="extraction"):
            self.text = gr.Textbox(
                lines=5,
                max_lines=20,
                label=texts("extraction_text"),
                placeholder=texts("extraction_placeholder"),
                elem_id="extraction-text",
            )
            with gr.Row():
                names = [(texts(f"task_{task}"), str(task)) for task in Task]
                self.task = gr.Dropdown(names, value="ner", label=texts("task"), elem_id="task", min_width=160)
                self.schema = gr.Dropdown(
                    list(self.schemas), value=first, label=texts("schema"), elem_id="schema", min_width=160
                )
                kinds = [(texts(f"constraint_{name}"), name) for name in CONSTRAINTS]
                self.constraint = gr.Dropdown(
                    kinds, value="auto", label=texts("constraint"), elem_id="constraint", min_width=160
                )
            gr.Markdown(texts("extraction_settings"), elem_classes="note")
            self.scores = gr.Checkbox(False, label=texts("scores"), elem_id="scores")
            with gr.Accordion(texts("schema_edit"), open=False, elem_id="schema-editor"):
                self.content = gr.Textbox(
                    value=as_yaml(self.schemas[first]),
                    lines=10,
                    max_lines=24,
                    label=texts("schema_content"),
                    info=texts("schema_info"),
                    elem_id="schema-content",
                    elem_classes="code",
                )
            self.form = Form(page, "extraction", self.start, self.shown)
            self.note = gr.Markdown(elem_id="extraction-note", elem_classes="note")
            self.output = gr.HTML(elem_id="extraction-output")

    def wire(self, blocks: gr.Blocks, panel: Panel) -> None:
        """Connect the events of the tab."""
        self.schema.input(lambda name: as_yaml(self.schemas[name]), [self.schema], [self.content], **MANY)
        fields = [self.text, self.task, self.content, self.constraint, self.scores]
        self.form.wire(panel, fields, [self.output], [self.note])

    def start(self, chosen: Chosen, text: str, task: str, content: str, constraint: str, scores: bool) -> list[Pieces]:
        """Begin the extraction. Raises `UserError` where something is missing."""
        need(self.page.texts, text)
        body = {"text": text, "task": task, "schema": self.read(content), "constraint": constraint, "scores": scores}
        return [_with_text(chosen.api.extract(chosen.model, body, chosen.decoding.max_new_tokens), text)]

    def shown(self, answer: Running) -> str:
        """The HTML of what was found; nothing while the model writes."""
        if not answer.text:
            return ""
        found = json.loads(answer.text)
        return view(found["result"], found["text"], self.page.texts)

    def read(self, content: str) -> Any:
        """The schema in the editor as data. Raises `UserError` in the language of the page."""
        if len(content) > MAX_SCHEMA_CHARACTERS:
            raise UserError(self.page.texts("error_schema_long", most=MAX_SCHEMA_CHARACTERS))
        if brackets(content) > MAX_BRACKETS:
            raise UserError(self.page.texts("error_schema_deep"))
        try:
            # An alias repeats what it names: a few lines of them could grow to gigabytes when they are sent.
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(content, yaml.CSafeLoader)):
                raise UserError(self.page.texts("error_schema_alias"))
            data = yaml.load(content, yaml.CSafeLoader)
            json.dumps(data)
        except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(self.page.texts("error_schema", message=" ".join(str(error).split()))) from error
        if not isinstance(data, (dict, list)):
            raise UserError(self.page.texts("error_schema_empty"))
        return data


def brackets(content: str) -> int:
    """The most brackets that are open at a time."""
    steps = accumulate((letter in "[{") - (letter in "]}") for letter in content)
    return max(steps, default=0)


def as_yaml(schema: Any) -> str:
    """A schema as people edit it."""
    return str(yaml.safe_dump(schema, allow_unicode=True, sort_keys=False, width=100))


async def _with_text(pieces: AsyncIterator[Piece], text: str) -> AsyncIterator[Piece]:
    """The result together with the text it speaks of, which the field may no longer hold by then."""
    async for piece in pieces:
        if piece.text:
            piece = replace(piece, text=json.dumps({"text": text, "result": json.loads(piece.text)}))
        yield piece
