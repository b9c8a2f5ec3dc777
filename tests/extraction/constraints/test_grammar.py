"""The grammar of answers, walked token by token with no model."""

import json
import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from src.errors import UserError
from src.extraction.constraints.grammar import Limits, answer_grammar, answer_schema
from src.extraction.formats.answers import answer_object
from src.extraction.items import items_from_record
from src.extraction.schema import EntityType, Question, Task
from src.generation.engine import Decoding, Grammar
from src.generation.engines.grammar import follow, grammar_text
from tests.extraction.answers_of_tasks import CASES
from tests.extraction.constraints.grammar_cases import LIMITS, QUESTIONS, TEXT, check
from tests.extraction.ie_data import ie_data

END = 2
PEOPLE = Question(Task.NER, (EntityType("person"),))


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir):
    return AutoTokenizer.from_pretrained(smollm2_dir)


def start(tokenizer, grammar: Grammar):
    return follow(Decoding(grammar=grammar), tokenizer, frozenset({END}))


def walk(tokenizer, grammar: Grammar, dice: random.Random) -> str:
    """A random answer: each token is any that the grammar allows."""
    follower, tokens = start(tokenizer, grammar), []
    while True:
        token = int(dice.choice(np.flatnonzero(follower.allowed())))
        if token == END:
            return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        tokens.append(token)
        follower.take(token)


def accepts(tokenizer, grammar: Grammar, answer: str) -> bool:
    """Whether an answer, in the tokenizer's tokens, is one of the grammar's."""
    follower = start(tokenizer, grammar)
    for token in tokenizer.encode(answer):
        if not follower.allowed()[token]:
            return False
        follower.take(token)
    return bool(follower.allowed()[END])


@pytest.mark.slow
@pytest.mark.parametrize("extractive", [False, True])
@pytest.mark.parametrize("task", Task)
def test_two_hundred_random_answers_are_whole_and_as_asked(tokenizer, task, extractive):
    text, question = TEXT if extractive else None, QUESTIONS[task]
    grammar = answer_grammar(question, text, LIMITS)
    for seed in range(200):
        check(question, walk(tokenizer, grammar, random.Random(seed)), text)


@pytest.mark.parametrize("text", [None, TEXT, "", " \n\u3000", "\ud800", "a\ud800b"])
@pytest.mark.parametrize("task", Task)
def test_an_answer_that_finds_nothing_is_possible_for_any_text(tokenizer, task, text):
    question = QUESTIONS[task]
    nothing = json.dumps({name: {} if task is Task.KG else [] for name in question.names}, ensure_ascii=False)
    grammar = answer_grammar(question, text)
    assert accepts(tokenizer, grammar, nothing) and accepts(tokenizer, grammar, " " + nothing)
    check(question, walk(tokenizer, answer_grammar(question, text, LIMITS), random.Random(0)), text)


@pytest.mark.parametrize("limits", [Limits(1, 1), Limits(1, 2), Limits(2, 1)])
@pytest.mark.parametrize("task", Task)
def test_the_smallest_limits_are_kept(tokenizer, task, limits):
    for text in (None, TEXT):
        grammar = answer_grammar(QUESTIONS[task], text, limits)
        check(QUESTIONS[task], walk(tokenizer, grammar, random.Random(0)), text, limits)


@pytest.mark.parametrize("task", set(Task) - {Task.EEA})
def test_right_answers_are_among_those_of_both_grammars(tokenizer, task):
    case = CASES[task]
    for text in (None, case.text):
        assert accepts(tokenizer, answer_grammar(case.question, text), case.answer)


def test_arguments_of_given_events_may_come_with_a_trigger_or_without(tokenizer):
    case = CASES[Task.EEA]
    event = {"裁员方": "NAN", "时间": "5月份", "裁员人数": ["900余人"]}
    for entry in (event, {"arguments": event}, {"trigger": "裁员", "arguments": event}, {"arguments": {}}):
        answer = json.dumps({"组织关系-裁员": [entry]}, ensure_ascii=False)
        assert accepts(tokenizer, answer_grammar(case.question, case.text), answer)


def test_a_trigger_that_is_given_is_kept(tokenizer):
    grammar = answer_grammar(QUESTIONS[Task.EEA], TEXT)
    begin = '{"组织关系-裁员": [{"trigger": "%s", "arguments": {}}], "say \\"hi\\"": [], "rain": []}'
    assert [accepts(tokenizer, grammar, begin % trigger) for trigger in ("裁 了", "NAN", "北京")] == [True, True, False]


@pytest.mark.slow
def test_gold_answers_of_real_sets_are_among_the_extractive_ones(tokenizer):
    for name, least in {"crossner/politics_dev.jsonl": 1.0, "cluener/train.jsonl": 0.97}.items():
        lines = ie_data(name).read_text(encoding="utf-8").splitlines()[:60]
        found = [(record["text"], items_from_record(record)) for record in map(json.loads, lines)]
        types = sorted({entity.type for _, items in found for entity in items.entities})
        question = Question(Task.NER, tuple(EntityType(each) for each in types))
        good = 0
        for text, items in found:
            answer = json.dumps(answer_object(question, items, text), ensure_ascii=False)
            good += accepts(tokenizer, answer_grammar(question, text), answer)
        assert good >= least * len(found), name


def test_a_text_that_is_not_there_is_refused_at_its_first_wrong_token(tokenizer):
    follower = start(tokenizer, answer_grammar(PEOPLE, "Ada met Charles Babbage."))
    for token in tokenizer.encode('{"person": ["Charles'):
        follower.take(token)
    allowed = follower.allowed()
    assert allowed[tokenizer.encode(" Bab")[0]] and not allowed[tokenizer.encode(" Darwin")[0]]


def test_spans_are_whole_words_unless_told(tokenizer):
    text = "Ada Lovelace, geb. 1815年12月10日"
    spans = ("Lovelace", "ovelace", "Love", "1815", "81", "年12", " Ada")
    answers = {span: json.dumps({"person": [span]}, ensure_ascii=False) for span in spans}
    whole = [span for span, answer in answers.items() if accepts(tokenizer, answer_grammar(PEOPLE, text), answer)]
    assert whole == ["Lovelace", "1815", "年12"]
    anywhere = answer_grammar(PEOPLE, text, Limits(whole_words=False))
    assert [span for span, answer in answers.items() if accepts(tokenizer, anywhere, answer)] == [*answers][:-1]


def test_lists_and_texts_are_bounded(tokenizer):
    for text in (None, "aa bb cc dd"):
        grammar = answer_grammar(PEOPLE, text, Limits(max_items=2, max_span_chars=5))
        assert accepts(tokenizer, grammar, '{"person": ["aa bb", "cc"]}')
        assert not accepts(tokenizer, grammar, '{"person": ["aa bb c"]}')
        assert not accepts(tokenizer, grammar, '{"person": ["aa", "bb", "cc"]}')


def test_ten_thousand_characters_can_be_extracted_from(tokenizer):
    dice = random.Random(0)
    text = "".join(dice.choice(TEXT + "abcdefghijklmnop的一是在不了") for _ in range(10_000))
    check(PEOPLE, walk(tokenizer, answer_grammar(PEOPLE, text, LIMITS), dice), text)


@pytest.mark.parametrize("task", Task)
def test_the_json_schema_is_one_that_engines_follow(task):
    assert grammar_text(Decoding(json_schema=answer_schema(QUESTIONS[task], LIMITS)))


def test_limits_below_one_are_refused():
    with pytest.raises(UserError, match="max_items=0"):
        Limits(max_items=0)
