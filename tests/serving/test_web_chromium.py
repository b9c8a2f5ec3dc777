"""The page in a real browser, on the real server with the real model: what people do there.

The server has the 135M model on llama.cpp, an adapter of it, a random model on transformers (which can do beams), and
a key. Answers are short, because only the page is tested.
"""

import json
import socket
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser

from src.generation.engines.server_process import free_port
from src.serving.server import bind
from src.serving.web.page import mount
from tests.serving.serving_live import Command
from tests.serving.web_browser import NARROW, Visitor, browser, find_chromium

KEY = "a-key-for-the-tests"
STORY = "Write a long story about a fox and a river."  # 450 tokens of it where nothing is drawn

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH"),
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser(CHROMIUM) as found:
        yield found


@pytest.fixture(scope="module")
def server(random_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(
        tmp_path_factory.mktemp("web"),
        "web=true",
        "metrics=open",
        "max_parallel=4",
        "context_length=512",
        f"adapters={{noise: '{random_adapter}'}}",
        "more_models={tiny: llama_tiny}",
        environment={"KNOWLM_API_KEYS": KEY},
    )
    try:
        yield command.wait_until_ready()
    finally:
        command.stop()


@pytest.fixture
def visitor(chromium: Browser, server: Command) -> Iterator[Visitor]:
    visitor = Visitor(chromium, server.url, KEY).open()
    yield visitor
    assert visitor.hosts <= {f"127.0.0.1:{server.port}"} and not visitor.mistakes
    visitor.close()


def broken_off(server: Command) -> int:
    """How many requests the server has broken off because their client went away."""
    return sum(line["status"] == 499 for line in server.lines())


def began(line: dict[str, Any]) -> float:
    """When a request of the access log came, in seconds; its time is that of its end, to the second."""
    return datetime.fromisoformat(line["time"]).timestamp() - line["seconds"]


def ends_early(server: Command, visitor: Visitor, before: int) -> None:
    """The server breaks one more request off, and its engine's process stops computing."""
    visitor.until(lambda: broken_off(server) == before + 1, "the server did not break it off", 20)
    engine = server.engine()
    visitor.page.wait_for_timeout(300)  # for the token that was being computed
    used = sum(engine.cpu_times()[:2])
    visitor.page.wait_for_timeout(1500)
    assert server.metric("knowlm_running") == 0 and sum(engine.cpu_times()[:2]) - used < 0.3


def test_an_answer_streams_and_ends_with_its_speed_and_reason(visitor: Visitor) -> None:
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=40)
    visitor.ask(STORY, wait=False)
    seen = visitor.grown()
    visitor.finished()
    assert visitor.messages()[0] == STORY and visitor.messages()[1].startswith(seen[0])
    note = visitor.text("#chat-note")
    assert "40 tokens in" in note and "tokens/s" in note and "cut off at max tokens" in note
    assert visitor.page.input_value("#message textarea") == ""


def test_stop_ends_the_answer_here_and_on_the_server(visitor: Visitor, server: Command) -> None:
    before = broken_off(server)
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=450)
    visitor.ask(STORY, wait=False)
    visitor.grown(2)
    visitor.page.click("#chat-stop")
    visitor.finished()
    assert "stopped" in visitor.text("#chat-note") and len(visitor.messages()[1]) > 3
    ends_early(server, visitor, before)


def test_escape_stops_and_the_conversation_goes_on(visitor: Visitor, server: Command) -> None:
    before = broken_off(server)
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=450)
    visitor.ask(STORY, wait=False)
    visitor.grown(1)
    visitor.page.keyboard.press("Escape")
    visitor.finished()
    ends_early(server, visitor, before)
    visitor.parameters(max_tokens=5)
    visitor.ask("And now?")
    assert len(visitor.messages()) == 4


def test_closing_the_page_ends_the_work_on_the_server(chromium: Browser, server: Command, visitor: Visitor) -> None:
    before = broken_off(server)
    other = Visitor(chromium, server.url, KEY).open()
    other.preset("Greedy")
    other.parameters(max_tokens=450)
    other.ask(STORY, wait=False)
    other.grown(1)
    other.close()
    ends_early(server, visitor, before)
    assert broken_off(server) == before + 1


def test_retry_answers_the_same_question_anew(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=12, temperature=1.5)
    visitor.ask("Invent a name for a city on Mars.")
    first = visitor.messages()
    visitor.page.get_by_role("button", name="Retry").click()
    visitor.until(lambda: visitor.text("#chat-note") == "" or visitor.messages() != first, "nothing happened")
    visitor.finished()
    again = visitor.messages()
    assert len(again) == 2 and again[0] == first[0] and again[1] and again[1] != first[1]


def test_an_edited_question_is_asked_anew_and_what_came_after_it_goes(visitor: Visitor) -> None:
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=8)
    visitor.ask("Name a colour.")
    visitor.ask("Name another.")
    assert len(visitor.messages()) == 4
    visitor.page.get_by_role("button", name="Edit").first.click()
    visitor.page.fill("#chat textarea", "What is the capital of France?")
    visitor.page.locator("#chat").get_by_role("button", name="Submit").click()
    visitor.until(lambda: len(visitor.messages()) == 2 and visitor.messages()[1], "no new answer")
    visitor.finished()
    assert visitor.messages()[0] == "What is the capital of France?" and "tokens in" in visitor.text("#chat-note")


def test_undo_takes_the_last_question_back_into_the_field(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=4)
    visitor.ask("First.")
    visitor.ask("Second.")
    visitor.page.get_by_role("button", name="Undo").last.click()
    visitor.until(lambda: len(visitor.messages()) == 2, "nothing was taken back")
    assert visitor.page.input_value("#message textarea") == "Second."


def test_a_preset_sets_the_controls_and_changing_one_makes_it_custom(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=10)
    assert visitor.page.input_value("#preset input") == "Custom"
    visitor.preset("Greedy")
    visitor.until(lambda: "always the likeliest" in visitor.text("#mode"), "the mode was not said")
    assert visitor.page.input_value("#temperature input[type=number]") == "0"
    assert visitor.page.is_disabled("#top-p input[type=number]") and visitor.page.is_enabled(
        "#max-tokens input >> nth=0"
    )
    visitor.parameters(temperature=1.2)
    visitor.until(lambda: "Sampling at temperature 1.2" in visitor.text("#mode"), "the mode was not said")
    assert visitor.page.input_value("#preset input") == "Custom" and visitor.page.is_enabled("#top-p input >> nth=0")


def test_a_number_out_of_range_or_taken_away_is_no_error(visitor: Visitor) -> None:
    for typed, mode in (
        ("9", "Sampling at temperature 2"),
        ("", "always the likeliest"),
        ("0.5", "at temperature 0.5"),
    ):
        visitor.parameters(temperature=typed)
        visitor.until(lambda mode=mode: mode in visitor.text("#mode"), f"'{typed}' was not understood", 20)
    assert not visitor.page.is_visible(".toast-body")


def test_the_temperature_of_the_page_reaches_the_model(visitor: Visitor) -> None:
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=12)
    answers = []
    for temperature in (0, 0, 2):
        visitor.parameters(temperature=temperature)
        visitor.ask("Invent a name for a city on Mars.")
        answers.append(visitor.messages()[-1])
        visitor.page.click("#new")
        visitor.until(lambda: not visitor.messages(), "no new conversation")
    assert answers[0] == answers[1] != answers[2]


def test_what_the_engine_can_not_do_is_left_out_and_said(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=6)
    visitor.preset("Precise, extraction")
    visitor.until(lambda: "llamacpp" in visitor.text("#mode"), "nothing was said")
    assert "Beams" in visitor.text("#mode") and visitor.page.is_disabled("#num-beams input[type=number]")
    visitor.choose("#model", "tiny")  # transformers has beams
    visitor.until(lambda: "Beam search with 2 beams" in visitor.text("#mode"), "the preset did not come back")
    assert visitor.page.is_disabled("#temperature input[type=number]")
    visitor.parameters(max_tokens=6)
    assert "no template for chats: use Complete" in visitor.text("#mode")
    visitor.page.get_by_role("tab", name="Complete").click()
    visitor.page.fill("#prompt textarea", "Once")
    visitor.page.click("#complete-run")
    visitor.until(lambda: "6 tokens in" in visitor.text("#complete-note"), "no continuation")


def test_two_models_answer_side_by_side_at_once(visitor: Visitor, server: Command) -> None:
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=60)
    visitor.page.get_by_role("tab", name="Compare").click()
    assert visitor.page.input_value("#left-model input") == "smollm2_135m"
    assert visitor.page.input_value("#right-model input") == "noise"
    visitor.page.fill("#compare-message textarea", STORY)
    visitor.page.press("#compare-message textarea", "Enter")
    left, right = (lambda side=side: visitor.page.input_value(f"#{side}-output textarea") for side in ("left", "right"))
    visitor.until(lambda: left() and right() and visitor.page.is_visible("#compare-stop"), "they did not run together")
    visitor.finished("#compare-stop")
    first, second = [line for line in server.lines() if line["path"] == "/v1/chat/completions"][-2:]
    assert abs(began(first) - began(second)) < min(first["seconds"], second["seconds"])  # both were asked at once
    assert left() != right() and "60 tokens" in visitor.text("#left-note") and "tokens" in visitor.text("#right-note")


def test_an_instruction_and_its_input_are_answered(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=10)
    visitor.page.get_by_role("tab", name="Instruction").click()
    visitor.page.fill("#instruction textarea", "Translate into French.")
    visitor.page.fill("#input textarea", "Good morning.")
    visitor.page.click("#instruction-run")
    visitor.until(lambda: visitor.page.input_value("#instruction-output textarea"), "no answer")
    visitor.finished("#instruction-stop")
    assert "tokens/s" in visitor.text("#instruction-note") and "/generate" not in visitor.text("#instruction-note")


def test_a_text_is_continued_until_a_stop_text(visitor: Visitor) -> None:
    visitor.preset("Greedy")
    visitor.parameters(max_tokens=30, stop="5")
    visitor.page.get_by_role("tab", name="Complete").click()
    visitor.page.fill("#prompt textarea", "1, 2, 3,")
    visitor.page.click("#complete-run")
    visitor.until(lambda: visitor.page.input_value("#complete-output textarea"), "no continuation")
    visitor.finished("#complete-stop")
    assert visitor.page.input_value("#complete-output textarea").strip() == "4,"
    assert "finished" in visitor.text("#complete-note")


def test_conversations_are_there_after_a_reload_and_can_be_changed_and_deleted(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=4)
    visitor.ask("The first conversation")
    visitor.page.click("#new")
    visitor.until(lambda: not visitor.messages(), "no new conversation")
    visitor.ask("The second conversation")
    before = visitor.messages()
    visitor.reload()
    visitor.until(lambda: visitor.messages() == before, "the conversation is gone")
    visitor.choose("#conversations", "The first conversation")
    visitor.until(lambda: visitor.messages()[:1] == ["The first conversation"], "it was not opened")
    visitor.page.get_by_role("button", name="Clear").click()
    visitor.until(lambda: visitor.page.input_value("#conversations input") == "", "it was not deleted")
    visitor.reload()
    visitor.page.click("#conversations input")
    assert [one.inner_text().strip().lstrip("✓ ") for one in visitor.page.get_by_role("option").all()] == [
        "The second conversation"
    ]


def test_the_chinese_page_speaks_chinese_and_keeps_the_conversations(chromium: Browser, server: Command) -> None:
    visitor = Visitor(chromium, server.url, KEY, locale="zh-CN").open("/")
    assert visitor.page.url.endswith("/ui/zh/")
    visitor.parameters(max_tokens=4)
    visitor.ask("你好！请介绍一下你自己。")
    assert "词元/秒" in visitor.text("#chat-note") and "达到最大词元数" in visitor.text("#chat-note")
    visitor.page.get_by_role("button", name="重试").wait_for()  # Gradio's own words
    labels = visitor.text("body")
    assert "对话" in labels and "解码方式" in labels and "Settings" not in labels and "Temperature" not in labels
    visitor.page.click("#other-language")
    visitor.ready()
    visitor.until(lambda: visitor.messages()[:1] == ["你好！请介绍一下你自己。"], "the conversation is gone")
    assert visitor.page.url.endswith("/ui/") and visitor.text("#send") == "Send"
    visitor.close()


def test_enter_in_an_input_method_and_with_shift_does_not_send(visitor: Visitor) -> None:
    visitor.page.fill("#message textarea", "ni hao")
    visitor.page.evaluate(
        """document.querySelector("#message textarea").dispatchEvent(new KeyboardEvent("keydown",
        {key: "Enter", isComposing: true, bubbles: true, cancelable: true}))"""
    )
    visitor.page.press("#message textarea", "Shift+Enter")
    visitor.page.wait_for_timeout(500)
    assert visitor.page.input_value("#message textarea") == "ni hao\n" and not visitor.messages()


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(chromium: Browser, server: Command) -> None:
    visitor = Visitor(chromium, server.url, KEY, viewport=NARROW, has_touch=True, color_scheme="dark").open()
    visitor.parameters(max_tokens=4)
    visitor.ask("Hello")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    for place in ("#send", "#new", "#message", "#model", "#temperature"):
        box = visitor.page.locator(place).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= NARROW["width"]
    red, green, blue = visitor.page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert max(red, green, blue) < 80  # dark, as the machine asks
    visitor.close()


def test_a_refusal_of_the_server_is_a_sentence(visitor: Visitor) -> None:
    visitor.page.fill("#message textarea", "word " * 1000)
    visitor.page.click("#send")
    visitor.until(lambda: "⚠" in visitor.text("#chat-note"), "no error was shown")
    note = visitor.text("#chat-note")
    assert "The server refused the request" in note and "512" in note and "context_length_exceeded" in note
    assert "Traceback" not in visitor.text("body") and not visitor.page.is_visible(".toast-body.error")


def test_what_is_missing_is_said(visitor: Visitor) -> None:
    visitor.page.click("#send")
    visitor.until(lambda: "write something first" in visitor.text("#chat-note"), "nothing was said")
    visitor.parameters(seed="seven")
    visitor.page.fill("#message textarea", "Hello")
    visitor.page.click("#send")
    visitor.until(lambda: "must be a whole number" in visitor.text("#chat-note"), "nothing was said")
    assert not visitor.messages() and visitor.page.input_value("#message textarea") == "Hello"


def test_a_key_that_can_not_be_sent_is_said_and_the_page_goes_on(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=4)
    visitor.page.fill("#key input", "schlüssel")
    visitor.page.press("#key input", "Enter")
    visitor.until(lambda: visitor.page.is_visible("#models-note"), "nothing was said", 20)
    assert "characters that no key has" in visitor.text("#models-note")
    visitor.ready()
    visitor.ask("Hello")
    assert "tokens in" in visitor.text("#chat-note")


def test_a_message_after_a_refused_one_takes_its_place(visitor: Visitor) -> None:
    visitor.parameters(max_tokens=4)
    visitor.ask("word " * 1000)
    assert "⚠" in visitor.text("#chat-note")
    visitor.page.fill("#message textarea", "Hello")
    visitor.page.press("#message textarea", "Enter")
    visitor.until(lambda: visitor.messages()[:1] == ["Hello"], "it was put behind the other")
    visitor.finished()
    assert len(visitor.messages()) == 2 and "tokens in" in visitor.text("#chat-note")


def test_without_a_key_the_page_says_where_it_goes(chromium: Browser, server: Command) -> None:
    visitor = Visitor(chromium, server.url).open()
    visitor.until(lambda: "put it in the field API key" in visitor.text("#models-note"), "nothing was said")
    visitor.key = KEY
    visitor.ready()
    visitor.until(lambda: not visitor.page.is_visible("#models-note"), "the note stayed")
    assert KEY not in visitor.page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})")
    visitor.close()


def test_a_server_that_is_gone_is_said_in_a_sentence(chromium: Browser) -> None:
    app = FastAPI()
    mount(app, f"http://127.0.0.1:{free_port()}/v1")
    listener = bind("127.0.0.1", 0, 30)
    page_server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=page_server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    visitor = Visitor(chromium, f"http://127.0.0.1:{listener.getsockname()[1]}").open()
    visitor.until(lambda: "The server can't be reached" in visitor.text("#models-note"), "nothing was said")
    visitor.page.fill("#message textarea", "Hello")
    visitor.page.click("#send")
    visitor.until(lambda: "Choose a model first" in visitor.text("#chat-note"), "nothing was said")
    assert not visitor.messages() and not visitor.mistakes
    visitor.close()
    page_server.should_exit = True
    thread.join(20)


def test_pictures_from_elsewhere_in_a_conversation_are_not_loaded(visitor: Visitor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(1.5)
        visitor.parameters(max_tokens=1)
        visitor.ask(f"![spy](http://127.0.0.1:{elsewhere.getsockname()[1]}/spy.png)")
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    visitor.hosts = {host for host in visitor.hosts if host != f"127.0.0.1:{elsewhere_port(visitor)}"}


def elsewhere_port(visitor: Visitor) -> str:
    """The port that the message names; Chromium notes the request before the policy forbids it."""
    return visitor.page.locator("#chat").inner_html().partition("127.0.0.1:")[2].partition("/")[0]


def test_an_extraction_marks_its_items_and_can_be_saved(visitor: Visitor, tmp_path: Path) -> None:
    text = "Marie Curie was born in Warsaw, Poland & <b>worked</b> in Paris with Pierre Curie."
    page = visitor.page
    visitor.parameters(max_tokens=64)
    page.get_by_role("tab", name="Extraction").click()
    page.fill("#extraction-text textarea", text)
    visitor.choose("#task", "Relations")
    visitor.choose("#task", "Entities")
    page.click("#extraction-run")
    visitor.until(lambda: page.locator("#extraction-output .extraction").count(), "nothing was shown")
    visitor.finished("#extraction-stop")
    assert page.locator(".spans mark").count() and page.locator(".items tbody tr").count()
    page.evaluate("document.querySelectorAll('.spans sup').forEach((label) => label.remove())")
    assert visitor.text(".spans") == text
    with page.expect_download() as download:
        page.click("#extraction-output a.download")
    download.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text(encoding="utf-8"))
    assert saved["text"] == text and saved["model"] == "smollm2_135m" and saved["documents"][0]["entity"]


def test_a_schema_is_chosen_edited_and_mistakes_in_it_are_told(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("tab", name="Extraction").click()
    page.fill("#extraction-text textarea", "Marie Curie was born in Warsaw.")
    page.click("#schema-editor > button")
    visitor.choose("#schema", "people (en)")
    visitor.until(lambda: "name: people" in page.input_value("#schema-content textarea"), "the schema did not change")
    page.fill("#schema-content textarea", "entities: [person")
    page.click("#extraction-run")
    visitor.until(lambda: "The schema is no YAML" in visitor.text("#extraction-note"), "nothing was said")
    page.fill("#schema-content textarea", "entities: [person]")
    visitor.choose("#task", "Events")
    page.click("#extraction-run")
    visitor.until(lambda: "has no events" in visitor.text("#extraction-note"), "nothing was said")
