"""The chat template a tokenizer carries (Jinja), with the loss mask and the protection it lacks by itself."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from src.errors import UserError
from src.models.conversation import Encoded, Message, Piece, encode_pieces, roles_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer


class ChatTemplate:
    """The chat template that a tokenizer carries, with the loss mask and the protection its frames lack.

    Answers are found by the template's ``{% generation %}`` blocks where it has them, else by rendering the
    conversation up to each answer; a template that rewrites earlier turns is refused rather than masked wrongly.
    """

    name = "auto"

    def __init__(self, tokenizer: "Tokenizer"):
        if not tokenizer.chat_template:
            raise UserError("the tokenizer has no chat template: set template=alpaca, llama2 or chatml")
        self.tokenizer = tokenizer
        self.stop_strings: list[str] = []
        self.has_blocks = re.search(r"\{%-?\s*generation\s*-?%\}", str(tokenizer.chat_template)) is not None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The conversation as the tokenizer's template writes it (its bos token, if it writes one, included)."""
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # Jinja's own errors, and whatever the template raises
            raise UserError(f"the tokenizer's chat template refuses {roles_of(messages)}: {error}") from error
        return cast(str, text)

    def encode(
        self, messages: Sequence[Message], tokenizer: "Tokenizer", add_generation_prompt: bool = False
    ) -> Encoded:
        """Ids and loss mask of the conversation; a prompt (``add_generation_prompt``) is not trained on."""
        text = self.render(messages, add_generation_prompt)
        specials = [str(token) for token in tokenizer.all_special_tokens] + [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        marks = re.compile("|".join(re.escape(token) for token in sorted(set(specials), key=len, reverse=True)))
        contents = self._contents(text, messages, add_generation_prompt, marks)
        spans = [] if add_generation_prompt else self._answers(text, messages, contents, marks)
        return encode_pieces(list(_cut(text, spans, contents, marks)), tokenizer)

    def stop_token_ids(self, tokenizer: "Tokenizer") -> list[int]:
        """The tokenizer's end token and the control token the template closes an answer with."""
        probe = "\u2042"
        after = self.render([Message("user", "?"), Message("assistant", probe)], False).rpartition(probe)[2]
        added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        closing = [number for content, number in added.items() if after.lstrip().startswith(content)]
        return list(dict.fromkeys(number for number in [*closing, tokenizer.eos_token_id] if number is not None))

    def _contents(
        self, text: str, messages: Sequence[Message], generation: bool, marks: re.Pattern[str]
    ) -> list[tuple[int, int]]:
        """Where each message's text lies, in characters, found by rendering stand-ins in its place."""
        marker = "\u2042{}\u2042"
        stand_ins = [Message(message.role, marker.format(i)) for i, message in enumerate(messages)]
        frame = self.render(stand_ins, generation)
        for contents in ([m.text for m in messages], [m.text.strip() for m in messages]):
            spans, built, position = [], "", 0
            for match in re.finditer("\u2042(\\d+)\u2042", frame):
                built += frame[position : match.start()]
                spans.append((len(built), len(built) + len(contents[int(match[1])])))
                built += contents[int(match[1])]
                position = match.end()
            if built + frame[position:] == text:
                return spans
        if any(marks.search(message.text) for message in messages):
            raise UserError("a message spells out a control token and the chat template changes texts: remove it")
        return []

    def _answers(
        self, text: str, messages: Sequence[Message], contents: list[tuple[int, int]], marks: re.Pattern[str]
    ) -> list[tuple[int, int]]:
        """Character spans of what is trained on: each answer and its end token."""
        if self.has_blocks:
            from transformers.utils.chat_template_utils import render_jinja_template

            turns = [{"role": message.role, "content": message.text} for message in messages]
            names: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
            names["chat_template"] = self.tokenizer.get_chat_template()
            rendered: Any = render_jinja_template([turns], return_assistant_tokens_mask=True, **names)
            return [(start, end) for start, end in rendered[1][0]]
        spans = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:index], add_generation_prompt=True)
            until = self.render(messages[: index + 1], add_generation_prompt=False)
            if not (text.startswith(before) and text.startswith(until) and len(before) <= len(until)):
                raise UserError(
                    f"the tokenizer's chat template rewrites earlier turns, so answer {index + 1} of the conversation "
                    "can't be told from its prompt: set template=chatml or another"
                )
            spoken = next((end for start, end in contents if len(before) <= start <= end <= len(until)), len(before))
            close = marks.search(text, spoken, len(until))
            spans.append((len(before), close.end() if close else len(before) + len(until[len(before) :].rstrip())))
        return spans


def _cut(
    text: str, spans: list[tuple[int, int]], contents: list[tuple[int, int]], marks: re.Pattern[str]
) -> Iterator[Piece]:
    """Pieces of a rendered conversation: control tokens are looked for only outside of what people wrote."""
    found = [match.span() for match in marks.finditer(text) if match.end() > match.start()]
    controls = {a: b for a, b in found if not any(start < b and a < end for start, end in contents)}
    edges = {0, len(text), *(edge for span in spans for edge in span), *controls, *controls.values()}
    ordered = sorted(edges)
    for start, end in itertools.pairwise(ordered):
        trained = any(a <= start and end <= b for a, b in spans)
        yield Piece(text[start:end], trained, control=controls.get(start) == end)
