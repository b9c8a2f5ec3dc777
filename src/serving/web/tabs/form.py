"""What the tabs with a form share: a button that runs, one that stops, and outputs that fill while text comes."""

from collections.abc import AsyncIterator, Callable, Sequence
from operator import attrgetter
from typing import Any

import gradio as gr

from src.errors import UserError
from src.serving.web.client import Piece
from src.serving.web.panel import MANY, Page, Panel
from src.serving.web.streaming import Running, watch
from src.serving.web.texts import Texts

Pieces = AsyncIterator[Piece]


class Form:
    """Run and Stop under the fields of a tab.

    Args:
        start: given the settings and the values of the fields, begins one stream for each output; raises `UserError` in
            the language of the page where something is missing.
        shown: what an output shows of its answer; its text by default.
    """

    def __init__(
        self,
        page: Page,
        name: str,
        start: Callable[..., list[Pieces]],
        shown: Callable[[Running], str] = attrgetter("text"),
    ):
        self.page, self.name, self.start, self.shown = page, name, start, shown
        with gr.Row():
            self.run = gr.Button(page.texts("run"), variant="primary", elem_id=f"{name}-run", scale=1, min_width=90)
            self.stop = gr.Button(
                page.texts("stop_button"),
                variant="stop",
                elem_id=f"{name}-stop",
                elem_classes="stop",
                scale=1,
                min_width=90,
                visible=False,
            )

    def wire(
        self,
        panel: Panel,
        fields: Sequence[Any],
        outputs: Sequence[Any],
        notes: Sequence[gr.Markdown],
        enter: Sequence[gr.Textbox] = (),
    ) -> None:
        """Connect the buttons; each output has the note of the same place. ``enter``: fields in which Enter runs."""
        count = len(fields)

        async def stream(request: gr.Request, *values: Any) -> AsyncIterator[dict[Any, Any]]:
            try:
                begun = self.start(self.page.chosen(*values[count:]), *values[:count])
            except UserError as error:
                yield {notes[0]: str(error)}
                return
            async for update in self._fill(str(request.session_hash), begun, outputs, notes):
                yield update

        async def stop(request: gr.Request) -> None:  # in the event loop, as what it stops
            self.page.runs.stop(str(request.session_hash), self.name)

        drawn = [*outputs, *notes, self.run, self.stop]
        triggers = [self.run.click, *(one.submit for one in enter)]
        gr.on(triggers, stream, [*fields, *panel.inputs], drawn, **MANY)
        self.stop.click(stop, None, None, queue=False, **MANY)

    async def _fill(
        self, session: str, begun: list[Pieces], outputs: Sequence[Any], notes: Sequence[gr.Markdown]
    ) -> AsyncIterator[dict[Any, Any]]:
        texts = self.page.texts
        answers = [Running(pieces) for pieces in begun]
        run = self.page.runs.begin(session, self.name)
        waiting: dict[Any, Any] = dict.fromkeys(outputs, "")
        waiting |= dict.fromkeys(notes, texts("note_waiting"))
        yield {**waiting, self.run: gr.update(visible=False), self.stop: gr.update(visible=True)}
        try:
            async for _ in watch(answers, run.stop):
                if run.superseded:
                    return
                update: dict[Any, Any] = {
                    output: self.shown(answer) for output, answer in zip(outputs, answers, strict=True)
                }
                yield update | {note: answer.note(texts) for note, answer in zip(notes, answers, strict=True)}
        finally:
            self.page.runs.end(session, self.name, run)
        last: dict[Any, Any] = {note: answer.note(texts) for note, answer in zip(notes, answers, strict=True)}
        yield {**last, self.run: gr.update(visible=True), self.stop: gr.update(visible=False)}


def answer_box(name: str, label: str) -> tuple[gr.Textbox, gr.Markdown]:
    """Where an answer is written, and the note below it."""
    box = gr.Textbox(lines=8, max_lines=24, label=label, interactive=False, buttons=["copy"], elem_id=f"{name}-output")
    return box, gr.Markdown(elem_id=f"{name}-note", elem_classes="note")


def need(texts: Texts, text: str) -> None:
    """Raise `UserError` where nothing was written."""
    if not text.strip():
        raise UserError(texts("error_nothing"))
