"""An endpoint of the OpenAI API: here llama.cpp's own server, which is not ours."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from src.errors import UserError
from src.generation.engine import Decoding, EngineDown, Grammar, Request, Unsupported
from src.generation.engines.openai_engine import OpenAIEngine
from src.models.templates import Message
from tests.generation.conftest import answer


@pytest.fixture
def endpoint(llamacpp_engine):
    engine = OpenAIEngine(llamacpp_engine.server.address + "/v1", "any", llamacpp_engine._key)
    yield engine
    engine.close()


@pytest.mark.slow
def test_a_plain_prompt_is_continued_as_on_the_engine_itself(endpoint, llamacpp_engine):
    text, events = answer(endpoint, "Water boils at", max_new_tokens=8)
    assert text == answer(llamacpp_engine, "Water boils at", max_new_tokens=8)[0]
    assert (events[-1].finish_reason, events[-1].prompt_tokens, events[-1].completion_tokens) == ("length", 3, 8)


@pytest.mark.slow
def test_a_stop_text_ends_the_answer_even_where_the_endpoint_takes_fewer(endpoint):
    stops = ["never 1", "never 2", "never 3", "never 4", "8, 9"]
    text, events = answer(endpoint, "1, 2, 3, 4, 5, 6,", max_new_tokens=30, stop=stops)
    assert (text, events[-1].finish_reason) == (" 7, ", "stop")


@pytest.mark.slow
def test_conversations_go_as_messages_with_their_log_probabilities(endpoint):
    request = Request(
        "1",
        messages=[Message("user", "What is the capital of France?")],
        decoding=Decoding(max_new_tokens=3, logprobs=2),
    )
    entries = [entry for event in endpoint.generate([request]) for entry in event.logprobs]
    assert entries and all(entry.logprob <= 0 and len(entry.top) == 2 for entry in entries)


@pytest.mark.slow
def test_a_wrong_key_is_a_sentence(llamacpp_engine):
    engine = OpenAIEngine(llamacpp_engine.server.address + "/v1", "any", "wrong")
    with pytest.raises(EngineDown, match="refuses access") as refusal:
        answer(engine, "x", max_new_tokens=1)
    assert "127.0.0.1" not in str(refusal.value) and "401" in refusal.value.in_full()


def test_nobody_at_the_address_is_an_engine_that_is_down(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    with pytest.raises(EngineDown, match="the endpoint failed") as down:
        answer(OpenAIEngine("http://127.0.0.1:9/v1", "any"), "x", max_new_tokens=1)
    assert down.value.detail.startswith("http://127.0.0.1:9/v1")


@pytest.fixture
def recorder():
    """Keeps what it is asked and answers with one token and three likely ones, the chosen one first."""
    bodies = []
    tops = {"c": -3.0, "a": -0.1, "b": -2.4}
    choice = {"index": 0, "text": "c", "finish_reason": "length"}
    logprobs = {"tokens": ["c"], "token_logprobs": [-3.0], "top_logprobs": [tops], "text_offset": [0]}
    chunk = {"id": "1", "object": "text_completion", "created": 1, "model": "any"}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            data = {**chunk, "choices": [{**choice, "logprobs": logprobs}]}
            self.wfile.write(f"data: {json.dumps(data)}\n\ndata: [DONE]\n\n".encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        server.shutdown()


def test_what_an_endpoint_takes_is_said_even_where_it_is_neutral(recorder):
    address, bodies = recorder
    answer(OpenAIEngine(address, "any", extensions=["top_k", "repetition_penalty"]), "x")
    assert (bodies[0]["top_k"], bodies[0]["repetition_penalty"]) == (0, 1.0) and "min_p" not in bodies[0]


def test_a_grammar_goes_to_an_endpoint_that_takes_it_and_what_was_cut_off_is_completed(recorder):
    address, bodies = recorder
    grammar = Grammar('%llguidance {}\nstart: "colour"\n', close=lambda text: "colour"[len(text) :])
    text, _ = answer(OpenAIEngine(address, "any", extensions=["grammar"]), "x", grammar=grammar)
    assert bodies[0]["structured_outputs"] == {"grammar": grammar.lark} and "grammar" not in bodies[0]
    assert text == "colour"
    with pytest.raises(Unsupported, match="grammar"):
        answer(OpenAIEngine(address, "any"), "x", grammar=grammar)


def test_the_likeliest_tokens_come_in_order_and_as_many_as_were_asked_for(recorder):
    _, events = answer(OpenAIEngine(recorder[0], "any"), "x", logprobs=2)
    (entry,) = [entry for event in events for entry in event.logprobs]
    assert entry.token == "c" and [top.token for top in entry.top] == ["a", "b"]


def test_what_an_endpoint_may_ignore_is_refused_unless_it_is_known_to_take_it():
    engine = OpenAIEngine("http://127.0.0.1:9/v1", "any")
    request = Request("1", prompt="x", decoding=Decoding(do_sample=True, top_k=5))
    with pytest.raises(Unsupported, match="top_k"):
        engine.check(request)
    OpenAIEngine("http://127.0.0.1:9/v1", "any", extensions=["top_k"]).check(request)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="no address"):
        OpenAIEngine("localhost:8000", "any")
    with pytest.raises(UserError, match="extensions has top_x"):
        OpenAIEngine("http://localhost/v1", "any", extensions=["top_x"])
