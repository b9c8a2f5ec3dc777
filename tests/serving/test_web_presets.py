"""The page's presets are the files of configs/decoding."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from src.command import CONFIGS, group_options
from src.errors import UserError
from src.serving.web import presets


@pytest.mark.parametrize("name", group_options("decoding"))
def test_a_preset_is_what_the_commands_make_of_its_name(name: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("generate", overrides=[f"decoding={name}"])
    preset = next(preset for preset in presets.load_presets() if preset.name == name)
    assert preset.decoding == instantiate(cfg.decoding) and len(preset.about) > 10


def test_conversation_is_the_first_preset() -> None:
    assert presets.load_presets()[0].name == "sample"


def test_a_file_that_is_no_decoding_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.yaml").write_text("# odd\ntemperature: 0.5\n")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    monkeypatch.setattr(presets, "group_options", lambda group: ["odd"])
    with pytest.raises(UserError, match=r"configs/decoding/odd\.yaml .* without sampling"):
        presets.load_presets()
