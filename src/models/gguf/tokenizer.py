"""The tokenizer of a Hugging Face folder in llama.cpp's words.

llama.cpp knows two kinds that matter here. Byte-level BPE is tokens, merges and the *name* of the rule that cuts a text
into words before merging: llama.cpp has the rules built in, so a tokenizer whose rule it does not have cannot be
written. SentencePiece BPE is pieces with scores; where a folder has only ``tokenizer.json``, the score of a piece is
minus the rank of the merge that makes it, which gives the same order.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.models.gguf.architecture import NotWrittenHereError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's kinds of tokens
BLANK = "▁"  # how SentencePiece spells a blank inside a piece
BPE = 2  # SentencePiece's number of the model type
ADDED_SCORE = -1000.0

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CAMEL = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
)
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
# The regular expression that cuts a text into words, and whether whole words skip the merges, to llama.cpp's name.
WORD_RULES = {
    (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST, True): "llama-bpe",
    (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST, False): "smaug-bpe",
    (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST, False): "qwen2",
    (CAMEL % ("", "") + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + REST, True): "tekken",
    (
        CAMEL % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + REST,
        False,
    ): "gpt-4o",
}


@dataclass
class Vocabulary:
    """Tokens by id with kinds and scores; ``pre`` names the rule that cuts words, ``model`` is gpt2 or llama."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] = field(default_factory=list)
    adds_bos: bool = False
    adds_eos: bool = False
    adds_blank: bool | None = None  # in front of a text; None where the kind has no such setting
    ids: dict[str, int] = field(default_factory=dict)  # of bos, eos, unk, pad


def read_vocabulary(folder: str | Path, size: int) -> Vocabulary:
    """The tokenizer of a folder with ``tokenizer.json`` or ``tokenizer.model``, filled up to `size` tokens.

    Raises:
        UserError: there is none, or llama.cpp does not have its kind.
    """
    folder = Path(folder)
    file, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    description = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if description is None and not pieces.is_file():
        raise UserError(f"'{folder}' has neither tokenizer.json nor tokenizer.model: copy one of them into it")
    if description is not None and _is_byte_level(description):
        vocabulary = _byte_level(description, folder)
    elif description is not None and not _only_marks_blanks(description):
        raise NotWrittenHereError(
            f"the tokenizer of '{folder}' changes characters before it cuts a text, and llama.cpp would not"
        )
    elif pieces.is_file():
        vocabulary = _sentencepiece(pieces, description, folder)
    else:
        vocabulary = _merged_pieces(description or {}, folder)
    _add_added_tokens(vocabulary, description, folder)
    del vocabulary.tokens[size:], vocabulary.kinds[size:], vocabulary.scores[size:]
    missing = size - len(vocabulary.tokens)
    vocabulary.tokens += [f"[PAD{n}]" for n in range(len(vocabulary.tokens), size)]
    vocabulary.kinds += [UNUSED] * missing
    vocabulary.scores += [ADDED_SCORE] * missing
    return vocabulary


def add_vocabulary(writer: Any, vocabulary: Vocabulary, folder: str | Path) -> None:
    """Write a tokenizer, and a folder's special tokens and chat template, into an open GGUF file."""
    import gguf

    byte_level = vocabulary.model == "gpt2"
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    if not byte_level:
        writer.add_token_scores(vocabulary.scores)
    special = gguf.SpecialVocab(folder, load_merges=byte_level, n_vocab=len(vocabulary.tokens))
    ids = {**special.special_token_ids, **vocabulary.ids, **_named_ids(Path(folder), vocabulary.tokens)}
    special.special_token_ids = ids
    _settle_ends(vocabulary, special.add_special_token, ids, Path(folder))
    special.add_special_token = {"bos": vocabulary.adds_bos, "eos": vocabulary.adds_eos}
    special.add_to_gguf(writer, quiet=True)
    if vocabulary.adds_blank is not None:
        writer.add_add_space_prefix(vocabulary.adds_blank)


def word_rule(description: dict[str, Any]) -> str | None:
    """llama.cpp's name of the rule by which a byte-level ``tokenizer.json`` cuts words; None for one it lacks.

    llama.cpp changes no character before it cuts. Unicode's composed form (NFC) is let pass, for it is Qwen's and most
    texts are in it already.
    """
    if (description.get("normalizer") or {}).get("type") not in (None, "NFC"):
        return None
    outer = description.get("pre_tokenizer") or {}
    steps = outer["pretokenizers"] if outer.get("type") == "Sequence" else [outer]
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"] and last.get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and last.get("use_regex", True):
        return "smollm" if steps[0].get("individual_digits") else None
    if kinds == ["Split", "ByteLevel"] and not last.get("use_regex", True):
        pattern = str((steps[0].get("pattern") or {}).get("Regex"))
        return WORD_RULES.get((pattern, bool(description["model"].get("ignore_merges"))))
    return None


def _is_byte_level(description: dict[str, Any]) -> bool:
    model = description.get("model") or {}
    return model.get("type") == "BPE" and '"ByteLevel"' in json.dumps(description.get("pre_tokenizer"))


def _byte_level(description: dict[str, Any], folder: Path) -> Vocabulary:
    rule = word_rule(description)
    if rule is None:
        raise NotWrittenHereError(
            f"the tokenizer of '{folder}' cuts words by another rule than those known here (GPT-2, SmolLM, Llama 3, "
            "Qwen 2, Tekken, GPT-4o)"
        )
    tokens = _by_id(description["model"]["vocab"])
    return Vocabulary("gpt2", rule, tokens, [NORMAL] * len(tokens), [0.0] * len(tokens))


def _sentencepiece(file: Path, description: dict[str, Any] | None, folder: Path) -> Vocabulary:
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    content = file.read_bytes()
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(content)
    if proto.trainer_spec.model_type != BPE:
        raise NotWrittenHereError(f"the tokenizer of '{folder}' is a SentencePiece unigram model and not BPE")
    engine = SentencePieceProcessor(model_proto=content)
    tokens = [engine.id_to_piece(n) for n in range(engine.get_piece_size())]
    kinds = [
        UNKNOWN
        if engine.is_unknown(n)
        else CONTROL
        if engine.is_control(n)
        else BYTE
        if engine.is_byte(n)
        else UNUSED
        if engine.is_unused(n)
        else NORMAL
        for n in range(len(tokens))
    ]
    scores = [engine.get_score(n) for n in range(len(tokens))]
    blank = proto.normalizer_spec.add_dummy_prefix if description is None else _adds_blank(description)
    ids = {"bos": engine.bos_id(), "eos": engine.eos_id(), "unk": engine.unk_id(), "pad": engine.pad_id()}
    ids = {role: index for role, index in ids.items() if index >= 0}
    return Vocabulary("llama", "default", tokens, kinds, scores, adds_blank=blank, ids=ids)


def _merged_pieces(description: dict[str, Any], folder: Path) -> Vocabulary:
    """A SentencePiece vocabulary that only ``tokenizer.json`` is left of."""
    model = description.get("model") or {}
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise NotWrittenHereError(
            f"the tokenizer of '{folder}' is of kind {model.get('type')}, neither byte-level BPE nor SentencePiece BPE"
        )
    tokens = _by_id(model["vocab"])
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    scores = [-float(ranks.get(token, len(ranks))) for token in tokens]
    unknown = model.get("unk_token")
    kinds = [UNKNOWN if token == unknown else BYTE if _is_byte(token) else NORMAL for token in tokens]
    return Vocabulary("llama", "default", tokens, kinds, scores, adds_blank=_adds_blank(description))


def _add_added_tokens(vocabulary: Vocabulary, description: dict[str, Any] | None, folder: Path) -> None:
    """Put in the tokens that were added to a vocabulary, which are found in a text before anything else."""
    added = [
        (token["id"], token["content"], bool(token.get("special")))
        for token in (description or {}).get("added_tokens", [])
    ]
    if description is None:
        settings = _settings(folder)
        decoder = settings.get("added_tokens_decoder") or {}
        added = [(int(n), token["content"], bool(token.get("special"))) for n, token in decoder.items()]
        if not added and (folder / "added_tokens.json").is_file():
            content = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
            added = [(n, token, False) for token, n in content.items()]
    for index, token, special in sorted(added):
        gap = max(index + 1 - len(vocabulary.tokens), 0)
        vocabulary.tokens += [f"[PAD{index + 1 - n}]" for n in range(gap, 0, -1)]
        vocabulary.kinds += [UNUSED] * gap
        vocabulary.scores += [ADDED_SCORE] * gap
        if vocabulary.kinds[index] in (UNKNOWN, BYTE):
            continue
        vocabulary.tokens[index] = token if special else token.replace(BLANK, " ")
        vocabulary.kinds[index] = CONTROL if special else USER_DEFINED
        vocabulary.scores[index] = ADDED_SCORE


def _settle_ends(vocabulary: Vocabulary, stated: dict[str, bool], ids: dict[str, int], folder: Path) -> None:
    """Find out whether texts get a first and a last token: as the tokenizer's settings say, else as it does."""
    file = folder / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        encoded = Tokenizer.from_file(str(file)).encode("a").ids
        first, last = encoded[:1], encoded[-1:]
    else:  # Llama's convention for a bare tokenizer.model
        first, last = [ids.get("bos", -1)], []
    vocabulary.adds_bos = "bos" in ids and stated.get("bos", first == [ids["bos"]])
    vocabulary.adds_eos = "eos" in ids and stated.get("eos", last == [ids["eos"]])


def _only_marks_blanks(description: dict[str, Any]) -> bool:
    """Whether a SentencePiece-like ``tokenizer.json`` leaves all characters but blanks as they are."""
    normalizer = description.get("normalizer") or {"type": "Sequence", "normalizers": []}
    return all(
        step.get("prepend") == BLANK or (step.get("content"), (step.get("pattern") or {}).get("String")) == (BLANK, " ")
        for step in normalizer.get("normalizers", [normalizer])
    )


def _adds_blank(description: dict[str, Any]) -> bool:
    """Whether a SentencePiece-like ``tokenizer.json`` puts a blank in front of a text."""
    normalizer, pre = description.get("normalizer") or {}, description.get("pre_tokenizer") or {}
    parts = [*normalizer.get("normalizers", [normalizer]), *pre.get("pretokenizers", [pre])]
    return any(
        part.get("prepend") == BLANK or (part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in parts
    )


def _named_ids(folder: Path, tokens: list[str]) -> dict[str, int]:
    """Ids of the special tokens that the tokenizer's settings name; they go before those of a SentencePiece model."""
    settings, ids = _settings(folder), {}
    for role in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token and token in tokens:
            ids[role] = tokens.index(token)
    return ids


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _by_id(vocabulary: dict[str, int]) -> list[str]:
    tokens = [f"[PAD{n}]" for n in range(max(vocabulary.values(), default=-1) + 1)]
    for token, index in vocabulary.items():
        tokens[index] = token
    return tokens


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
