"""The fast tokenizer engine: ids of many texts in one buffer, several times faster than the reference libraries.

`fastokens` reads a ``tokenizer.json``. For a bare SentencePiece BPE model that description is built here: the merges
are all splits of a piece into two pieces, in the order of the piece's *score* (by id, as some converters do it, runs of
blanks would be merged first), and there are no added tokens, so that ``<s>`` in a text stays the three characters it
is.

Nothing here says that the engine is exact. `same_ids` finds that out: whoever opens a tokenizer compares the two
engines on texts that are known to be difficult, and uses this one only where every id is equal.
"""

import ctypes
import itertools
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import orjson
from fastokens import Tokenizer
from sentencepiece import sentencepiece_model_pb2

BLANK = "\u2581"  # how SentencePiece spells a blank inside a piece
VOCABULARY_SAMPLE = 2000  # tokens of the vocabulary that a check is also made of
_NORMAL, _BYTE = 1, 6  # types of pieces in a SentencePiece model
_SPECIAL = (2, 3)  # unknown and control pieces: no text becomes one

CHECK_TEXTS = (
    "",
    " ",
    "\n",
    "The quick brown fox jumps over the lazy dog; it wasn't 3.14159 (or 2,718) times. I'LL say: \"naïve café\"?",
    "It was a bright cold day in April.\n\nNobody said anything at all.  Two blanks. \n Trailing blank \n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。今天天气很好！“走吧。”他说……\u3000\u3000第2段 mixed 中英文。",
    "𠮷野家 ㍿ ﬁ １２ かなカナ 한국어 текст ελληνικά العربية עברית ภาษาไทย हिन्दी বাংলা",
    "def main(argv: list[str]) -> int:\n    for i, x in enumerate(argv):\n\tif x != 0x1F:\n\t\treturn -i  # why?\n",
    '#include <stdio.h>\r\nint main() { printf("%d\\n", 1 << 3); }\r\n\r\n\r<a href="https://a.org/?q=1&r=%20">x</a>',
    "😀👩\u200d👩\u200d👧🏽 🇩🇪 e\u0301 n\u0303 a\u0300\u0301\u0302 \u0301 \ufe0f \u200b",
    "nul\x00inside \x01\x7f\x85\xa0 \u2028separator\u2029 \ufeff \ufffd \ue000 \U0010ffff",
    "\ttab\t\ttabs\t \t mixed\n\n\n\n\r\r\n \n  \n   x\f\v",
    "</s><s><unk><pad> C</s> <0x0A> [INST] <|endoftext|><|im_start|>user<|im_end|> \u2581 literal \u2581\u2581mark",
    "don't can't I'm we've you'd they'll 'S 'T it's\u2019s 1234567890 12,345.678e-9 __init__ camelCaseHTTPServer2",
    "".join(f"{' ' * n}{'x' if n % 2 else '月'}" for n in range(70)) + " " * 130,
    "".join(f"{char * 33}|{char * 7} " for char in "aA0.-=_#*/\\\n\t，。月é😀"),
    "月" * 5000 + "abcdefgh" * 2000 + "😀" * 500,
)


class NotExactError(Exception):
    """The fast engine cannot be used for a tokenizer; the message says why."""


class FastEngine:
    """One `fastokens` tokenizer, in one thread: a corpus is encoded by many processes.

    Its caches are bounded: about 30 MB after the first ten megabytes of text, no more after forty.

    Args:
        description: the text of a ``tokenizer.json``.

    Raises:
        NotExactError: the engine does not know a part of the description.
    """

    def __init__(self, description: str) -> None:
        # Read once a process, at the first text. With more threads a batch costs twice the CPU time.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        try:
            self._engine = Tokenizer.from_json_str(description)
        except ValueError as error:
            raise NotExactError(f"fastokens cannot read it ({error})") from None
        self._engine.no_padding()
        self._engine.no_truncation()

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts one after another, and where each text starts in them.

        Returns:
            int32 ``[total]`` and int64 ``[texts + 1]``, both read-only.
        """
        ids, starts = self._engine.encode_batch_flat(list(texts), add_special_tokens=False, split_special_tokens=True)
        return np.frombuffer(ids, dtype="<i4"), np.frombuffer(starts, dtype="<i8")


def same_ids(engine: FastEngine, texts: Sequence[str], reference: Iterable[np.ndarray]) -> bool:
    """Whether the engine's ids of every text are those of the reference engine."""
    ids, starts = engine.encode_flat(texts)
    parts = (ids[begin:end] for begin, end in itertools.pairwise(starts))
    return all(np.array_equal(part, expected) for part, expected in zip(parts, reference, strict=True))


def check_description(description: str) -> None:
    """Raise a `NotExactError` where the text of a ``tokenizer.json`` describes no BPE, or one with dropout."""
    model = json.loads(description).get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise NotExactError(f"a {model['type']} vocabulary, and only BPE is exact")
    if model.get("dropout"):
        raise NotExactError("BPE dropout makes other ids every time")


def describe_sentencepiece(model: bytes) -> str:
    """Build the ``tokenizer.json`` description of a SentencePiece BPE model.

    Args:
        model: the serialized model.

    Raises:
        NotExactError: the model does something that the description has no words for.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    _check_eligible(proto)
    # No text becomes a special piece: spelled with a blank, it is nothing that the blank's mark leaves in a text.
    pieces = [f" {index}" if piece.type in _SPECIAL else piece.piece for index, piece in enumerate(proto.pieces)]
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    mark_blanks: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    if proto.normalizer_spec.add_dummy_prefix:
        mark_blanks = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, mark_blanks]}
    description = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": mark_blanks,
        "model": {
            "type": "BPE",
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "vocab": {piece: index for index, piece in enumerate(pieces)},
            "merges": _merges(scores),
        },
    }
    return orjson.dumps(description).decode()


def _check_eligible(proto: Any) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    types = [piece.type for piece in proto.pieces]
    letters = {piece.piece for piece in proto.pieces if piece.type == _NORMAL and len(piece.piece) == 1}
    reasons = {
        "a unigram or word model, and only BPE is exact": trainer.model_type != trainer.BPE,
        "it normalises its texts": bool(normalizer.precompiled_charsmap) or normalizer.remove_extra_whitespaces,
        "it marks blanks in another way": trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces,
        "it has no byte fallback": types.count(_BYTE) != 256,
        "a text that spells <0x0A> could become that byte": not letters.issuperset("<0x123456789ABCDEF>"),
        "it has user-defined or unused pieces": not {_NORMAL, _BYTE, *_SPECIAL}.issuperset(types),
        "two of its pieces have the same score": _has_ties(proto),
    }
    for reason, holds in reasons.items():
        if holds:
            raise NotExactError(reason)


def _has_ties(proto: Any) -> bool:
    """Whether the order of two merges is left open. Among runs of blanks, as in Llama's, it makes no odds."""
    merged = [piece for piece in proto.pieces if piece.type == _NORMAL and len(piece.piece) > 1]
    scores = [piece.score for piece in merged if piece.piece.strip(BLANK)]
    scores += {piece.score for piece in merged if not piece.piece.strip(BLANK)}
    return len(set(scores)) < len(scores)


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best score first."""
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        splits = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [(left, right) for left, right in splits if left in scores and right in scores]
    return merges


def give_memory_back() -> None:
    """Return freed memory to the system: building an engine leaves tens of megabytes of holes (glibc only)."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
