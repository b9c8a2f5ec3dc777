"""schemathesis asks every route of our OpenAPI document for what is right and wrong: never a 5xx, never no answer."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_live import Command

pytestmark = pytest.mark.slow

ROUTES = {
    *("/v1/models", "/v1/models/{model_id}", "/v1/chat/completions", "/v1/completions", "/generate", "/is_ready"),
    *("/tokenize", "/detokenize", "/health", "/ready", "/version", "/metrics"),
}
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"


def test_the_document_names_every_route(served: Command) -> None:
    assert set(httpx.get(served.url + "/openapi.json").json()["paths"]) == ROUTES


def test_schemathesis_finds_no_server_error_on_any_route(served: Command, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text("")
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", served.url + "/openapi.json"),
        *("--checks", CHECKS, "--max-examples", "15", "--seed", "1", "--phases", "examples,coverage,fuzzing"),
        *("--request-timeout", "60", "-H", "X-Request-Timeout: 2", "--workers", "4", "--max-failures", "5"),
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-6000:]
    assert not [line for line in served.lines() if line["status"] >= 500 and line["status"] not in (503, 504)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    "model prompt messages temperature top_p top_k stop n stream logprobs response_format logit_bias seed echo "
    "stream_options instruction input parameters tokens max_tokens num_beams tools suffix best_of".split()
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/detokenize"]),
    st.dictionaries(KEYS, JSON, max_size=5),
)
def test_bodies_of_known_keys_with_odd_values_are_told_what_is_wrong(
    served: Command, path: str, body: dict[str, object]
) -> None:
    content = json.dumps({"max_tokens": 1, **body}).encode()
    headers = {"content-type": "application/json", "x-request-timeout": "20"}
    response = httpx.post(served.url + path, content=content, headers=headers, timeout=60)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=40))
def test_bytes_that_are_no_json_are_a_400(served: Command, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(served.url + "/v1/chat/completions", content=content, headers=headers, timeout=60)
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"
