"""Chat: a conversation that streams, can be stopped, retried and edited, and stays in the browser."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from src.errors import UserError
from src.serving.web.history import Conversation, History, Turn, plain, until_question
from src.serving.web.panel import MANY, Page, Panel
from src.serving.web.streaming import Running, watch

TAB = "chat"
Update = dict[Any, Any]  # component: its new value
STORE = "knowlm-conversations"


class ChatTab:
    """The tab; made inside the page's tabs, wired to the settings by `wire`."""

    models: Sequence[gr.Dropdown] = ()

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        with gr.Tab(texts("tab_chat"), id=TAB):
            with gr.Row(equal_height=True, elem_classes="joined"):
                self.picker = gr.Dropdown(
                    [], label=texts("conversations"), elem_id="conversations", scale=6, min_width=120
                )
                self.new = gr.Button(texts("conversation_new"), elem_id="new", scale=1, min_width=70)
            self.chat = gr.Chatbot(
                show_label=False,
                elem_id="chat",
                height="55vh",
                min_height=260,
                editable="user",
                buttons=["copy", "copy_all"],
                feedback_options=None,
                allow_tags=False,
                placeholder=texts("chat_empty"),
                group_consecutive_messages=False,
            )
            self.note = gr.Markdown(elem_id="chat-note", elem_classes="note")
            with gr.Row(equal_height=True, elem_classes="joined"):
                self.message = gr.Textbox(
                    lines=1,
                    max_lines=8,
                    label=texts("message"),
                    show_label=False,
                    placeholder=texts("message_placeholder"),
                    elem_id="message",
                    scale=7,
                    min_width=160,
                    autofocus=True,
                )
                self.send = gr.Button(texts("send"), variant="primary", elem_id="send", scale=1, min_width=70)
                self.stop = gr.Button(
                    texts("stop_button"),
                    variant="stop",
                    elem_id="chat-stop",
                    elem_classes="stop",
                    scale=1,
                    min_width=70,
                    visible=False,
                )
            with gr.Accordion(texts("system"), open=False, elem_id="system-box"):
                self.system = gr.Textbox(
                    lines=2,
                    max_lines=8,
                    show_label=False,
                    label=texts("system"),
                    placeholder=texts("system_placeholder"),
                    elem_id="system",
                )
            self.store = gr.BrowserState(
                History().stored(), storage_key=STORE, secret=STORE
            )  # both fixed, or a restarted server would not read what is there

    def wire(self, blocks: gr.Blocks, panel: Panel) -> None:
        """Connect the events of the tab."""
        inputs = [self.chat, self.system, self.store, *panel.inputs]
        drawn = [self.message, self.chat, self.note, self.store, self.picker, self.send, self.stop]
        drawn += [self.new, self.system]
        gr.on([self.message.submit, self.send.click], self.on_send, [self.message, *inputs], drawn, **MANY)
        self.chat.retry(self.on_retry, inputs, drawn, **MANY)
        self.chat.edit(self.on_edit, inputs, drawn, **MANY)
        self.chat.undo(self.on_undo, [self.chat, self.store], drawn, **MANY)
        self.stop.click(self.on_stop, None, None, queue=False, **MANY)
        self.new.click(self.on_new, self.store, drawn, **MANY)
        self.chat.clear(self.on_delete, self.store, drawn, **MANY)
        self.picker.input(self.on_pick, [self.picker, self.store], drawn, **MANY)
        blocks.load(self.on_load, self.store, drawn, **MANY)

    async def on_send(
        self, request: gr.Request, message: str, chat: Any, system: str, store: Any, *settings: Any
    ) -> AsyncIterator[Update]:
        """A new message, in place of a question that has no answer; an empty one asks that question again."""
        turns = plain(chat)
        if message.strip():
            answered = turns[:-1] if turns and turns[-1]["role"] == "user" else turns
            turns = (*answered, {"role": "user", "content": message})
        elif not turns or turns[-1]["role"] != "user":
            yield {self.note: self.page.texts("error_nothing")}
            return
        async for update in self.answer(request, turns, system, store, settings):
            yield update

    async def on_retry(
        self, request: gr.Request, event: gr.RetryData, chat: Any, system: str, store: Any, *settings: Any
    ) -> AsyncIterator[Update]:
        """Another answer to the question before the place of the retry button."""
        turns = until_question(plain(chat), _index(event.index))
        async for update in self.answer(request, turns, system, store, settings):
            yield update

    async def on_edit(
        self, request: gr.Request, event: gr.EditData, chat: Any, system: str, store: Any, *settings: Any
    ) -> AsyncIterator[Update]:
        """The edited question is asked anew; what came after it is gone."""
        question = {"role": "user", "content": str(event.value)}
        turns = (*plain(chat)[: _index(event.index)], question)
        async for update in self.answer(request, turns, system, store, settings):
            yield update

    async def answer(
        self, request: gr.Request, turns: tuple[Turn, ...], system: str, store: Any, settings: tuple[Any, ...]
    ) -> AsyncIterator[Update]:
        """Stream the answer to the last of the turns, and keep the conversation."""
        texts, session = self.page.texts, str(request.session_hash)
        try:
            chosen = self.page.chosen(*settings)
        except UserError as error:
            yield {self.note: str(error)}
            return
        history = History.read(store)
        conversation = replace(history.get(history.current) or Conversation(), turns=turns, system=system)
        history = history.put(conversation)
        opening = [{"role": "system", "content": system}] if system.strip() else []
        answer = Running(chosen.api.chat(chosen.model, [*opening, *turns], chosen.parameters))
        run = self.page.runs.begin(session, TAB)
        waiting = {self.message: "", self.note: texts("note_waiting")}
        yield {**self.shown(history, running=True), self.chat: list(turns), **waiting}
        try:
            async for _ in watch([answer], run.stop):
                if run.superseded:
                    return
                if answer.text:
                    written = {"role": "assistant", "content": answer.text}
                    yield {self.chat: [*turns, written], self.note: answer.note(texts)}
        finally:
            self.page.runs.end(session, TAB, run)
        if answer.text:
            turns = (*turns, {"role": "assistant", "content": answer.text})
        conversation = replace(conversation, turns=turns)
        history = history.put(conversation)
        more = texts("ask_again") if answer.error and not answer.text else ""
        if history.get(conversation.id) != conversation:
            more += " " + texts("error_too_long")
        yield {**self.shown(history), self.chat: list(turns), self.note: answer.note(texts) + more}

    def on_undo(self, event: gr.UndoData, chat: Any, store: Any) -> Update:
        """Take the last question and its answer back; the question returns to the field."""
        turns, history = plain(chat), History.read(store)
        kept = until_question(turns, _index(event.index))[:-1]
        question = turns[len(kept)]["content"] if len(kept) < len(turns) else ""
        if kept:
            history = history.put(replace(history.get(history.current) or Conversation(), turns=kept))
        else:
            history = history.delete(history.current)
        return {**self.shown(history), self.chat: list(kept), self.message: question, self.note: ""}

    async def on_stop(self, request: gr.Request) -> None:
        """End the answer that is being written; what has come of it stays."""
        self.page.runs.stop(str(request.session_hash), TAB)

    def on_new(self, store: Any) -> Update:
        return {**self.shown(History.read(store).select(None)), self.system: "", self.note: ""}

    async def on_delete(self, request: gr.Request, store: Any) -> Update:
        """Forget the current conversation, and what is being written in it."""
        self.page.runs.supersede(str(request.session_hash), TAB)
        history = History.read(store)
        return self.opened(history.delete(history.current))

    def on_pick(self, picked: str, store: Any) -> Update:
        return self.opened(History.read(store).select(picked))

    def on_load(self, store: Any) -> Update:
        return self.opened(History.read(store))

    def opened(self, history: History) -> Update:
        """The page with the current conversation just taken up."""
        current = history.get(history.current)
        return {**self.shown(history), self.system: current.system if current else "", self.note: ""}

    def shown(self, history: History, running: bool = False) -> Update:
        """The current conversation, the list of all, and the buttons that fit."""
        current = history.get(history.current)
        untitled = self.page.texts("conversation_untitled")
        choices = [(one.title or untitled, one.id) for one in history.conversations]
        return {
            self.chat: list(current.turns) if current else [],
            self.store: history.stored(),
            self.picker: gr.update(choices=choices, value=history.current, interactive=not running),
            self.send: gr.update(visible=not running),
            self.stop: gr.update(visible=running),
            self.new: gr.update(interactive=not running),
        }


def _index(index: int | tuple[int, int] | list[int]) -> int:
    return index if isinstance(index, int) else index[0]
