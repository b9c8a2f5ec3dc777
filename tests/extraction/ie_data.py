"""Where the real extraction sets are that tests use where they are present."""

from pathlib import Path

import pytest

IE_DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "ie"


def ie_data(name: str) -> Path:
    """A file of the sets; skips the test that asks where it is absent."""
    path = IE_DATA / name
    if not path.exists():
        pytest.skip(f"the extraction set {name} is not here")
    return path
