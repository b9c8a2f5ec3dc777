"""Settings of deduplication: the config files are valid, and mistakes are named."""

from pathlib import Path

import pytest
import yaml

from src.corpus.dedup.settings import DedupSettings, MinHashSettings, ParagraphSettings
from src.errors import UserError

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "dedup"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("none", ()),
        ("exact", ("exact",)),
        ("minhash", ("exact", "minhash")),
        ("paragraph", ("exact", "minhash", "paragraph")),
    ],
)
def test_each_config_file_asks_for_the_kinds_it_describes(name, kinds):
    settings = DedupSettings.from_config(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")))
    assert settings.kinds == kinds


def test_a_config_becomes_typed_settings():
    settings = DedupSettings.from_config({"minhash": {"bands": 20}, "paragraphs": {}, "scope": "source"})
    assert settings == DedupSettings(False, MinHashSettings(bands=20), ParagraphSettings(), "source")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"exakt": True}, "unknown setting 'exakt'"),
        ({"minhash": {"band": 3}}, "dedup.minhash has the unknown setting 'band'"),
        ({"minhash": {"rows": 0}}, "dedup.minhash.rows=0"),
        ({"minhash": {"bands": 14.5}}, "dedup.minhash.bands=14.5"),
        ({"minhash": {"bands": 1000, "rows": 1000}}, "their product"),
        ({"minhash": True}, "dedup.minhash=True"),
        ({"paragraphs": {"min_characters": 0}}, "dedup.paragraphs.min_characters=0"),
        ({"scope": "file"}, "dedup.scope=file"),
        ({"exact": "yes"}, "dedup.exact=yes"),
    ],
)
def test_a_mistake_is_named(config, message):
    with pytest.raises(UserError, match=message):
        DedupSettings.from_config(config)
