"""Following a grammar: what is forced, what is allowed, what completes an answer."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from src.errors import UserError
from src.generation.engine import Decoding, Grammar
from src.generation.engines.grammar import _compiled, follow, grammar_text

CITY = Grammar('%llguidance {}\nstart: "{\\"city\\": \\"" ("Paris" | "Parma" | "Rome") "\\"}"\n')
END = 2


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir):
    return AutoTokenizer.from_pretrained(smollm2_dir)


def start(tokenizer, grammar: Grammar):
    follower = follow(Decoding(grammar=grammar), tokenizer, frozenset({END}))
    assert follower is not None
    return follower


def test_the_text_that_must_follow_is_taken_in_the_tokenizers_own_tokens(tokenizer):
    answer = tokenizer.encode('{"city": "Rome"}')
    follower, taken, chosen = start(tokenizer, CITY), [], 0
    while not taken or taken[-1] != END:
        forced = follower.forced()
        chosen += not forced
        token = forced[0] if forced else answer[len(taken)]
        assert follower.allowed()[token]
        follower.take(token)
        taken.append(token)
    assert taken == [*answer, END]
    assert chosen < len(answer) / 2


def test_a_forced_token_is_the_only_one_allowed(tokenizer):
    follower = start(tokenizer, CITY)
    for token in tokenizer.encode('{"city": "R'):
        follower.take(token)
    assert tokenizer.decode(follower.forced()) == 'ome"}'
    assert np.flatnonzero(follower.allowed()).tolist() == [follower.forced()[0]]


def test_logits_of_a_padded_vocabulary_are_masked_whole(tokenizer):
    digit = Grammar("%llguidance {}\nstart: /[0-9]/\n")
    for size in (len(tokenizer), len(tokenizer) + 100):
        kept = start(tokenizer, digit).allow(torch.zeros(size)).isfinite().nonzero()[:, 0].tolist()
        assert sorted(tokenizer.convert_ids_to_tokens(kept)) == [*"0123456789"]


def test_one_more_token_leaves_the_follower_where_it_is(tokenizer):
    follower = start(tokenizer, CITY)
    for token in tokenizer.encode('{"city": "'):
        follower.take(token)
    rome = tokenizer.encode("R")[0]
    further = follower.after(rome)
    assert further is not None and further.forced() and not follower.forced()
    assert follower.after(tokenizer.encode("no")[0]) is None
    assert follower.allowed()[rome]


def test_a_grammar_is_compiled_once(tokenizer):
    start(tokenizer, CITY)
    before = _compiled.cache_info().misses
    assert start(tokenizer, CITY) is not start(tokenizer, CITY)
    assert _compiled.cache_info().misses == before


def test_what_is_no_grammar_is_refused_by_what_is_wrong_with_it(tokenizer):
    broken = Grammar("%llguidance {}\nstart: nowhere\n")
    for look in (lambda: start(tokenizer, broken), lambda: grammar_text(Decoding(grammar=broken))):
        with pytest.raises(UserError, match=r"grammar can't be followed.*nowhere"):
            look()


def test_an_answer_is_completed_in_tokens_that_spell_what_is_missing(tokenizer):
    grammar = Grammar(CITY.lark, close=lambda text: '{"city": "Rome"}"京'[len(text) :])
    follower = start(tokenizer, grammar)
    assert tokenizer.decode(follower.closing('{"ci')) == 'ty": "Rome"}"京'
    assert follower.may_close(10**6) and not start(tokenizer, CITY).may_close(0)
    bounded = start(tokenizer, Grammar(CITY.lark, grammar.close, longest_close=20))
    assert bounded.may_close(20) and not bounded.may_close(21)
