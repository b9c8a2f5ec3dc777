"""A folder of shards with a manifest."""

from pathlib import Path

import pytest

from tests.shards.shard_cases import make_source


@pytest.fixture
def source_folder(tmp_path: Path) -> Path:
    return make_source(tmp_path)
