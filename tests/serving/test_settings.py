"""Settings of the server that contradict each other are refused."""

import pytest

from src.errors import UserError
from src.serving.keys import load_keys
from src.serving.settings import Settings, on_loopback


def test_other_machines_are_let_in_only_with_keys_or_on_purpose() -> None:
    with pytest.raises(UserError, match="insecure=true"):
        Settings(host="0.0.0.0")
    Settings(host="0.0.0.0", insecure=True)
    Settings(host="0.0.0.0", keys=load_keys(plain=["a-key-that-is-long-enough"]))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.3.4"])
def test_loopback_names(host: str) -> None:
    assert on_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1.evil.example", "localhost.example", "", "192.168.0.1"])
def test_names_that_are_not_loopback(host: str) -> None:
    assert not on_loopback(host)


@pytest.mark.parametrize(
    "wrong",
    [{"max_body_bytes": 0}, {"drain_s": -1}, {"metrics": "some"}, {"cors_origins": ("example.org",)}, {"max_n": 0}],
)
def test_settings_without_meaning_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]
