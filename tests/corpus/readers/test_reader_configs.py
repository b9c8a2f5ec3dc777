"""The corpus presets name sources that can be read: every key is known, every hub entry whole."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.command import CONFIGS, group_options
from src.corpus.preprocess import SourceSpec
from src.corpus.readers import Reading
from src.corpus.readers.hub import HubFiles


@pytest.mark.parametrize("corpus", group_options("corpus"))
def test_the_sources_of_a_preset_can_be_built(corpus):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = OmegaConf.to_container(compose("preprocess", overrides=[f"corpus={corpus}"]).corpus, resolve=True)
    assert config["name"] == corpus
    paths = {}
    for name, source in config["sources"].items():
        spec = SourceSpec.from_config(name, source)
        Reading(**spec.reading)
        if spec.hub is not None:
            hub = HubFiles.from_config(name, spec.hub)
            assert paths.setdefault(spec.path, hub) == hub  # a folder holds one download


def test_presets_with_the_same_folder_share_its_download():
    downloads = {}
    for corpus in group_options("corpus"):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = OmegaConf.to_container(compose("preprocess", overrides=[f"corpus={corpus}"]).corpus, resolve=True)
        for name, source in config["sources"].items():
            if "hub" in source:
                hub = HubFiles.from_config(name, source["hub"])
                assert downloads.setdefault(source["path"], hub) == hub
    assert len(downloads) == 4
