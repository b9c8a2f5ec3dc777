"""From the controls of the page to a decoding, to what the API is sent, and to one line that says what it means."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from src.generation.engine import Decoding
from src.serving.settings import MAX_STOP
from src.serving.web.client import Model
from src.serving.web.texts import Texts

CONTROLS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "max_tokens",
    "num_beams",
    "seed",
    "stop",
)
RANGES = {  # of the sliders: least, most, step
    "temperature": (0, 2, 0.05),
    "top_p": (0.01, 1, 0.01),
    "top_k": (0, 200, 1),
    "min_p": (0, 1, 0.01),
    "repetition_penalty": (1, 2, 0.05),
    "presence_penalty": (-2, 2, 0.1),
    "frequency_penalty": (-2, 2, 0.1),
    "max_tokens": (1, 4096, 1),
    "num_beams": (1, 8, 1),
}
DRAWN = ("top_p", "top_k", "min_p", "seed")  # do nothing where nothing is drawn
COUNTED = ("presence_penalty", "frequency_penalty")  # do not go with beams
DEFAULTS = Decoding()


def from_controls(values: Mapping[str, Any]) -> Decoding:
    """The decoding that the values of `CONTROLS` mean; what is idle in it (`idle`) is left out.

    A number out of its range, or none, as there may be while somebody types, counts as the nearest, or the least.
    """
    values = {**values, **{name: _within(values[name], *RANGES[name]) for name in RANGES}}
    beams = int(values["num_beams"])
    if beams > 1:
        how: dict[str, Any] = {"num_beams": beams}
    else:
        how = {name: float(values[name]) for name in COUNTED}
        if values["temperature"] > 0:
            how |= {name: float(values[name]) for name in ("temperature", "top_p", "min_p")}
            how |= {"do_sample": True, "top_k": int(values["top_k"]), "seed": seed_of(values["seed"])}
    return Decoding(
        max_new_tokens=int(values["max_tokens"]),
        repetition_penalty=float(values["repetition_penalty"]),
        stop=stop_texts(values["stop"]),
        **how,
    )


def _within(value: float | None, least: float, most: float, step: float) -> float:
    return least if value is None else min(max(value, least), most)


def is_seed(text: str | None) -> bool:
    """Whether a field holds a whole number or nothing."""
    return re.fullmatch(r"\s*([+-]?[0-9]{1,18})?\s*", text or "") is not None


def seed_of(text: str | None) -> int | None:
    """The seed in a field; None where there is none."""
    return int(text) if text and text.strip() and is_seed(text) else None


def idle(decoding: Decoding) -> set[str]:
    """The controls that do nothing in this decoding. Not the temperature at 0, where it can be turned up again."""
    if decoding.num_beams > 1:
        return {"temperature", *DRAWN, *COUNTED}
    return set() if decoding.do_sample else set(DRAWN)


def control_values(decoding: Decoding) -> dict[str, Any]:
    """How the controls stand for a decoding."""
    return {
        "temperature": decoding.temperature if decoding.do_sample else 0.0,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k,
        "min_p": decoding.min_p,
        "repetition_penalty": decoding.repetition_penalty,
        "presence_penalty": decoding.presence_penalty,
        "frequency_penalty": decoding.frequency_penalty,
        "max_tokens": decoding.max_new_tokens,
        "num_beams": decoding.num_beams,
        "seed": "" if decoding.seed is None else str(decoding.seed),
        "stop": "\n".join(text.replace("\\", "\\\\").replace("\n", "\\n") for text in decoding.stop),
    }


def stop_texts(lines: str | None) -> list[str]:
    r"""The stop texts of a field: one a line, ``\n`` for a line break within one, ``\\`` for a backslash."""
    texts = []
    for line in (lines or "").split("\n"):
        parts = [part.replace("\\n", "\n") for part in line.split("\\\\")]
        texts.append("\\".join(parts))
    return [text for text in texts if text]


def parameters(decoding: Decoding, extended: bool) -> dict[str, Any]:
    """What the API is sent.

    extended: whether it is known to take our extensions of OpenAI's parameters. Then all are sent, so that no default
        of the server comes in; else only those that change something, so that it answers without them.
    """
    sent: dict[str, Any] = {
        "max_tokens": decoding.max_new_tokens,
        "temperature": decoding.temperature if decoding.do_sample else 0.0,
    }
    if decoding.do_sample:
        sent["top_p"] = decoding.top_p
    names = ["num_beams", "repetition_penalty", *COUNTED, *(("top_k", "min_p") if decoding.do_sample else ())]
    for name in names:
        if extended or getattr(decoding, name) != getattr(DEFAULTS, name):
            sent[name] = getattr(decoding, name)
    if decoding.seed is not None:
        sent["seed"] = decoding.seed
    if decoding.stop or extended:
        sent["stop"] = list(decoding.stop)
    return sent


def lacking(decoding: Decoding, model: Model | None) -> list[str]:
    """The parameters that the model's engine can't take, as far as the API says what it can."""
    if model is None or model.capabilities is None:
        return []
    return [name for need, name in decoding.needs().items() if need.name.lower() not in model.capabilities]


def unoffered(decoding: Decoding, model: Model | None) -> set[str]:
    """The controls that the model's engine has no use for; not those that are set all the same, to be set back."""
    asking = {"num_beams": 2, "top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1} | dict.fromkeys(COUNTED, 0.1)
    never = set()
    for name, value in asking.items():
        how = {"do_sample": True} if name in DRAWN else {}
        if lacking(Decoding(**how, **{name: value}), model):  # type: ignore[arg-type]
            never.add(name)
    return never - set(lacking(decoding, model))


def fitted(decoding: Decoding, model: Model | None) -> Decoding:
    """A preset without what the model's engine can't do; the page says what was left out."""
    return replace(decoding, **{name: getattr(DEFAULTS, name) for name in lacking(decoding, model)})


def mode_line(decoding: Decoding, texts: Texts) -> str:
    """One line: how tokens are chosen."""
    if decoding.num_beams > 1:
        return texts("mode_beams", beams=decoding.num_beams)
    if not decoding.do_sample:
        return texts("mode_greedy")
    parts = []
    if decoding.top_k:
        parts.append(texts("mode_top_k", top_k=decoding.top_k))
    if decoding.top_p < 1:
        parts.append(texts("mode_top_p", top_p=decoding.top_p))
    if decoding.min_p:
        parts.append(texts("mode_min_p", min_p=decoding.min_p))
    limits = texts("mode_among", parts=texts("list_comma").join(parts)) if parts else ""
    return texts("mode_sampling", temperature=decoding.temperature, limits=limits)


def warnings(decoding: Decoding, model: Model | None, texts: Texts) -> list[str]:
    """What would be refused of a decoding."""
    found = []
    if model is not None and (names := lacking(decoding, model)):
        found.append(texts("mode_lacking", engine=model.engine, parameters=named(names, texts)))
    if model is not None and not model.chat:
        found.append(texts("mode_no_chat"))
    if len(decoding.stop) > MAX_STOP:
        found.append(texts("mode_too_many_stops", count=len(decoding.stop), most=MAX_STOP))
    return found


def named(names: Sequence[str], texts: Texts) -> str:
    """Parameters by the names of their controls."""
    return texts("list_comma").join(texts(name) for name in names)
