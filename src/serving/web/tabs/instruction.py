"""Instruction: one instruction and the input it works on, as in KnowLM's web form."""

from collections.abc import Sequence

import gradio as gr

from src.serving.web.panel import Chosen, Page, Panel
from src.serving.web.tabs.form import Form, Pieces, answer_box, need


class InstructionTab:
    """The tab; made inside the page's tabs, wired to the settings by `wire`."""

    models: Sequence[gr.Dropdown] = ()

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        with gr.Tab(texts("tab_instruction"), id="instruction"):
            self.instruction = gr.Textbox(
                lines=2,
                max_lines=10,
                label=texts("instruction"),
                placeholder=texts("instruction_placeholder"),
                elem_id="instruction",
            )
            self.input = gr.Textbox(
                lines=4, max_lines=16, label=texts("input"), placeholder=texts("input_placeholder"), elem_id="input"
            )
            self.form = Form(page, "instruction", self.start)
            self.output, self.note = answer_box("instruction", texts("output"))

    def wire(self, blocks: gr.Blocks, panel: Panel) -> None:
        """Connect the events of the tab."""
        self.form.wire(panel, [self.instruction, self.input], [self.output], [self.note])

    def start(self, chosen: Chosen, instruction: str, input: str) -> list[Pieces]:
        """Begin the answer. Raises `UserError` where something is missing."""
        need(self.page.texts, instruction)
        return [chosen.api.instruct(chosen.model, instruction, input, chosen.parameters)]
