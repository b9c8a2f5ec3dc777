"""Compare: two models or adapters answer the same message side by side, at once, with the same decoding."""

from typing import Any

import gradio as gr

from src.errors import UserError
from src.serving.web.panel import Chosen, Page, Panel
from src.serving.web.tabs.form import Form, Pieces, answer_box, need

SIDES = ("left", "right")


class CompareTab:
    """The tab; made inside the page's tabs, wired to the settings by `wire`. It has pickers of models of its own."""

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        with gr.Tab(texts("tab_compare"), id="compare"):
            self.message = gr.Textbox(
                lines=1,
                max_lines=10,
                label=texts("compare_message"),
                placeholder=texts("message_placeholder"),
                elem_id="compare-message",
            )
            self.form = Form(page, "compare", self.start)
            self.models: list[gr.Dropdown] = []
            self.outputs: list[gr.Textbox] = []
            self.notes: list[gr.Markdown] = []
            with gr.Row():
                for side in SIDES:
                    with gr.Column(min_width=240):
                        self.models.append(gr.Dropdown([], label=texts(f"compare_{side}"), elem_id=f"{side}-model"))
                        output, note = answer_box(side, texts("output"))
                        self.outputs.append(output)
                        self.notes.append(note)

    def wire(self, blocks: gr.Blocks, panel: Panel) -> None:
        """Connect the events of the tab."""
        self.form.wire(panel, [self.message, *self.models], self.outputs, self.notes, enter=[self.message])

    def start(self, chosen: Chosen, message: str, *models: Any) -> list[Pieces]:
        """Begin both answers. Raises `UserError` where something is missing."""
        if not all(models):
            raise UserError(self.page.texts("error_no_model"))
        need(self.page.texts, message)
        messages = [{"role": "user", "content": message}]
        return [chosen.api.chat(model, messages, chosen.parameters) for model in models]
