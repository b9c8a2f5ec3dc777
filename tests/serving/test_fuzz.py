"""schemathesis asks every route of our OpenAPI document for what is right and wrong: never a 5xx, never no answer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.serving_live import Command

pytestmark = pytest.mark.slow

ROUTES = {
    *("/v1/models", "/v1/models/{model_id}", "/v1/chat/completions", "/v1/completions", "/generate", "/is_ready"),
    *("/extract", "/extract/schemas"),
    *("/tokenize", "/detokenize", "/health", "/ready", "/version", "/metrics"),
}
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The real command with the 135M model on llama.cpp, which writes four tokens at most."""
    settings = ("engine=llamacpp", "max_parallel=4", "context_length=1024", "max_tokens_limit=4", "max_n=2")
    command = Command(tmp_path_factory.mktemp("brief"), *settings)
    try:
        yield command.wait_until_ready()
    finally:
        command.stop()


def test_the_document_names_every_route(brief: Command) -> None:
    assert set(httpx.get(brief.url + "/openapi.json").json()["paths"]) == ROUTES


def test_schemathesis_finds_no_server_error_on_any_route(brief: Command, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text("")
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", brief.url + "/openapi.json"),
        *("--checks", CHECKS, "--max-examples", "15", "--seed", "1", "--phases", "examples,coverage,fuzzing"),
        *("--request-timeout", "60", "--workers", "1", "--max-failures", "5"),
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-6000:]
    assert not [line for line in brief.lines() if line["status"] >= 500]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [
        *("model", "prompt", "messages", "temperature", "top_p", "top_k", "stop", "n", "stream", "logprobs", "echo"),
        *("response_format", "logit_bias", "seed", "stream_options", "instruction", "input", "parameters", "tokens"),
        *("max_tokens", "num_beams", "tools", "suffix", "best_of"),
        *("text", "documents", "task", "schema", "constraint", "format", "scores", "split_num"),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/generate", "/extract", "/tokenize", "/detokenize"]),
    st.dictionaries(KEYS, JSON, max_size=5),
)
def test_bodies_of_known_keys_with_odd_values_are_told_what_is_wrong(
    brief: Command, path: str, body: dict[str, object]
) -> None:
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response = httpx.post(brief.url + path, content=content, headers=headers, timeout=60)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=40))
def test_bytes_that_are_no_json_are_a_400(brief: Command, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(brief.url + "/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"
