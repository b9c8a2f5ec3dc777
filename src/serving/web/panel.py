"""The settings beside the tabs: model, key, preset, every decoding parameter, and the line that says what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import gradio as gr

from src.errors import UserError
from src.generation.engine import Decoding
from src.serving.settings import MAX_STOP
from src.serving.web.client import Api, Model, PageError
from src.serving.web.presets import Preset, load_presets
from src.serving.web.settings import (
    CONTROLS,
    RANGES,
    control_values,
    fitted,
    from_controls,
    idle,
    is_seed,
    lacking,
    mode_line,
    named,
    parameters,
    unoffered,
    warnings,
)
from src.serving.web.streaming import Runs, error_line
from src.serving.web.texts import Texts

CUSTOM = "custom"
# For events: not in an API of the page's own, without flicker, any number at a time, since the API has the limits, and
# with the values as they come: Gradio makes an error of a slider's number that is empty while somebody types.
MANY: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "concurrency_limit": None,
    "preprocess": False,
}


@dataclass(frozen=True)
class Chosen:
    """What the settings were when a button was pressed."""

    api: Api
    model: str
    decoding: Decoding
    extended: bool

    @property
    def parameters(self) -> dict[str, Any]:
        """The decoding as the API is sent it."""
        return parameters(self.decoding, self.extended)


@dataclass
class Page:
    """What the tabs share."""

    texts: Texts
    base_url: str
    own: bool = False  # whether the API is of this very server
    runs: Runs = field(default_factory=Runs)
    presets: Sequence[Preset] = field(default_factory=load_presets)

    def api(self, key: str) -> Api:
        """The API with a key. Raises `PageError` for one that no key can be."""
        return Api(self.base_url, key, proxies=not self.own)

    def chosen(self, known: dict[str, Model], model: str | None, key: str, *values: Any) -> Chosen:
        """The settings out of the values of `Panel.inputs`. Raises `UserError` in the language of the page."""
        if not model:
            raise UserError(self.texts("error_no_model"))
        controls = dict(zip(CONTROLS, values, strict=True))
        if not is_seed(controls["seed"]):
            raise UserError(self.texts("error_seed", seed=controls["seed"]))
        found = known.get(model)
        extended = found is not None and found.capabilities is not None
        try:
            api = self.api(key)
        except PageError as error:
            raise UserError(error_line(error, self.texts)) from error
        return Chosen(api, model, from_controls(controls), extended)


class Tab(Protocol):
    """A tab of the page: made inside its tabs, wired when all of the page is there."""

    @property
    def models(self) -> Sequence[gr.Dropdown]:
        """Pickers of its own that are to list the models."""
        ...

    def wire(self, blocks: gr.Blocks, panel: "Panel") -> None: ...


class Panel:
    """The settings. ``inputs`` are the components that `Page.chosen` takes the values of."""

    def __init__(self, page: Page):
        self.page, texts = page, page.texts
        first = page.presets[0]
        gr.Markdown(f"### {texts('settings')}")
        self.model = gr.Dropdown([], label=texts("model"), elem_id="model")
        self.models_note = gr.Markdown(elem_id="models-note", visible=False)
        self.key = gr.Textbox(
            type="password",
            label=texts("key"),
            info=texts("key_info"),
            elem_id="key",
            html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        )
        choices = [(_preset_text(texts, "preset", preset), preset.name) for preset in page.presets]
        self.preset = gr.Dropdown(
            [*choices, (texts("preset_custom"), CUSTOM)], value=first.name, label=texts("preset"), elem_id="preset"
        )
        self.mode = gr.Markdown(elem_id="mode")
        with gr.Accordion(texts("parameters"), open=False, elem_id="parameters"):
            self.controls = _controls(texts, control_values(first.decoding))
        self.known = gr.State({})  # id: Model
        self.inputs = [self.known, self.model, self.key, *self.controls.values()]
        self._wire()

    def _wire(self) -> None:
        controls = list(self.controls.values())
        everything = [self.preset, self.known, self.model, *controls]
        described = [self.mode, *controls]
        gr.on(
            [self.preset.change, *(control.change for control in controls)],
            self._describe,
            everything,
            described,
            trigger_mode="always_last",
            **MANY,
        )
        gr.on([control.input for control in controls], None, None, self.preset, js=f"() => '{CUSTOM}'", **MANY)
        gr.on([self.preset.input, self.model.change, self.known.change], self._fill, everything, controls, **MANY).then(
            self._describe, everything, described, **MANY
        )

    def on_models(self, *triggers: Any, also: Sequence[gr.Dropdown] = ()) -> None:
        """Read the models when the page loads and with a new key; ``also`` are more pickers to fill."""
        gr.on(
            [*triggers, self.key.submit, self.key.blur],
            self._read_models,
            [self.key, self.model, *also],
            [self.known, self.models_note, self.model, *also],
            trigger_mode="always_last",  # a key may come while the first answer is on its way
            **MANY,
        )

    async def _read_models(self, key: str, *chosen: str | None) -> list[Any]:
        try:
            models, note = await self.page.api(key).models(), ""
        except PageError as error:
            models, note = [], error_line(error, self.page.texts)
        ids = [model.id for model in models]
        note = note or ("" if ids else self.page.texts("model_none"))
        pickers = []
        for place, old in enumerate(chosen):
            # the second picker of a comparison starts with the second model
            default = ids[min(max(place - 1, 0), len(ids) - 1)] if ids else None
            pickers.append(gr.update(choices=ids, value=old if old in ids else default))
        return [{model.id: model for model in models}, gr.update(value=note, visible=bool(note)), *pickers]

    def _fill(self, name: str, known: dict[str, Model], model: str | None, *values: Any) -> list[Any]:
        """The values of the preset for the model; those that are there for custom ones."""
        preset = self._preset(name)
        wanted = values if preset is None else control_values(fitted(preset.decoding, known.get(model or ""))).values()
        # What is right already is not sent: somebody may be typing there by now.
        return [gr.skip() if old == new else new for old, new in zip(values, wanted, strict=True)]

    def _describe(self, name: str, known: dict[str, Model], model: str | None, *values: Any) -> list[Any]:
        """What the settings mean, and which of them mean nothing now."""
        texts, preset, found = self.page.texts, self._preset(name), known.get(model or "")
        decoding = from_controls(dict(zip(CONTROLS, values, strict=True)))
        lines = [_preset_text(texts, "about", preset) if preset else texts("about_custom"), mode_line(decoding, texts)]
        if found and preset and (names := lacking(preset.decoding, found)):
            lines.append(texts("mode_left_out", engine=found.engine, parameters=named(names, texts)))
        lines += warnings(decoding, found, texts)
        idle_now, never = idle(decoding), unoffered(decoding, found)
        updates = []
        for control in CONTROLS:
            info = texts(f"{control}_info")
            if found and control in never:
                info = texts("lacking_info", engine=found.engine)
            elif control in idle_now:
                info = texts("idle_info")
            updates.append(gr.update(interactive=control not in idle_now | never, info=info))
        return ["<br>".join(lines), *updates]

    def _preset(self, name: str) -> Preset | None:
        return next((preset for preset in self.page.presets if preset.name == name), None)


def _preset_text(texts: Texts, kind: str, preset: Preset) -> str:
    """The page's words for a preset; for one that somebody has added, those of its file."""
    key = f"{kind}_{preset.name}"
    return texts(key) if key in texts else {"preset": preset.name, "about": preset.about}[kind]


def _controls(texts: Texts, values: dict[str, Any]) -> dict[str, Any]:
    controls: dict[str, Any] = {}
    for name in CONTROLS:
        common = {
            "label": texts(name),
            "info": texts(f"{name}_info", most=MAX_STOP),
            "value": values[name],
            "elem_id": name.replace("_", "-"),
            "interactive": True,
        }
        if name in RANGES:
            low, high, step = RANGES[name]
            controls[name] = gr.Slider(low, high, step=step, **common)
        else:  # a number field has no empty value, which a seed needs
            controls[name] = gr.Textbox(lines=1 if name == "seed" else 2, max_lines=4, **common)
    return controls
