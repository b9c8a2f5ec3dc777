"""The zoo's configs are whole, and any model can be found by name, path or hub id."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from src.command import CONFIGS, ROOT
from src.errors import UserError
from src.models.spec import ModelSpec
from src.models.table import zoo_table
from src.models.zoo import find_model, list_models

NAMES = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml") if path.stem != "custom")


def test_the_zoo_is_every_config_but_custom() -> None:
    assert sorted(spec.name for spec in list_models()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_hydra_and_the_zoo_make_the_same_model_of_a_config(name: str) -> None:
    root = OmegaConf.create(
        {
            "paths": OmegaConf.load(CONFIGS / "paths" / "default.yaml"),
            "model": OmegaConf.load(CONFIGS / "model" / f"{name}.yaml"),
        }
    )
    spec = find_model(name)
    assert instantiate(root.model) == spec
    assert spec.context_length > 0 and spec.parameters > 0 and spec.license and spec.note


@pytest.mark.parametrize("spec", list_models(), ids=lambda spec: spec.name)
def test_the_template_a_model_names_exists(spec: ModelSpec) -> None:
    assert spec.template is None or (CONFIGS / "prompt_template" / f"{spec.template}.yaml").is_file()


def test_a_hub_id_outside_the_zoo_is_found() -> None:
    spec = find_model("Qwen/Qwen3-0.6B")
    assert (spec.kind, spec.hub_id, spec.cache_dir) == ("hub", "Qwen/Qwen3-0.6B", find_model("oneke").cache_dir)


def test_a_folder_is_found(tmp_path: Path) -> None:
    assert find_model(str(tmp_path)).kind == "folder"


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match=r"no model 'smolm2_135m' \(did you mean smollm2_135m\?\)"):
        find_model("smolm2_135m")


def test_listing_the_zoo_does_not_import_torch() -> None:
    code = "import sys; from src.models.zoo import list_models; from src.models.table import zoo_table; "
    code += "zoo_table(list_models()); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(zoo_table(list_models()))
    rows = output.getvalue().splitlines()
    assert "…" not in output.getvalue()
    assert rows[0].split() == ["name", "weights", "context", "size", "template", "local", "licence"]
    assert any(row.split()[:4] == ["smollm2_135m", "134.5", "M", "8192"] for row in rows)
