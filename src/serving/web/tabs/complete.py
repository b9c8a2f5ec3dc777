"""Complete: a base model goes on with a text, without any template."""

from collections.abc import Sequence

import gradio as gr

from src.serving.web.panel import Chosen, Page, Panel
from src.serving.web.tabs.form import Form, Pieces, answer_box, need


class CompleteTab:
    """The tab; made inside the page's tabs, wired to the settings by `wire`."""

    models: Sequence[gr.Dropdown] = ()

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        with gr.Tab(texts("tab_complete"), id="complete"):
            self.prompt = gr.Textbox(
                lines=6, max_lines=24, label=texts("prompt"), placeholder=texts("prompt_placeholder"), elem_id="prompt"
            )
            self.form = Form(page, "complete", self.start)
            self.output, self.note = answer_box("complete", texts("continuation"))

    def wire(self, blocks: gr.Blocks, panel: Panel) -> None:
        """Connect the events of the tab."""
        self.form.wire(panel, [self.prompt], [self.output], [self.note])

    def start(self, chosen: Chosen, prompt: str) -> list[Pieces]:
        """Begin the continuation. Raises `UserError` where something is missing."""
        need(self.page.texts, prompt)
        return [chosen.api.complete(chosen.model, prompt, chosen.parameters)]
