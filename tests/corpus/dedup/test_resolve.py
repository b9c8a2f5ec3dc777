"""The whole of deduplication: the same as a plain reference, however the work is divided."""

import random
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.corpus.dedup.minhash import MinHasher
from src.corpus.dedup.records import open_records
from src.corpus.dedup.resolve import DROPPED_LINE, ResolveDuplicates, dropped_lines_file
from src.corpus.dedup.settings import DedupSettings, MinHashSettings, ParagraphSettings
from src.corpus.dedup.shingles import shingle_hashes

NEAR = DedupSettings(exact=True, minhash=MinHashSettings(ngram=2, bands=6, rows=2))
ALL = DedupSettings(True, MinHashSettings(ngram=2, bands=6, rows=2), ParagraphSettings(6))
WORDS = st.lists(st.sampled_from(["fox", "dog", "cat", "今", "天", "the", "a", "over"]), max_size=8).map(" ".join)
PARTS = st.lists(st.lists(st.lists(WORDS, max_size=3).map("\n".join), max_size=8), min_size=1, max_size=4)


def shuffled(count):
    return random.Random(count).sample(range(count), count)


def plain_survivors(parts, minhash: MinHashSettings) -> list[str]:
    """Documents whose component of shared keys or equal texts has no earlier member; every pair is compared."""
    hasher = MinHasher(minhash)
    documents = [(f"{p}:{i}", text) for p, texts in enumerate(parts) for i, text in enumerate(texts)]
    keys = []
    for _, text in documents:
        shingles, counts = shingle_hashes([text], minhash.ngram)
        bands = set(hasher.keys(hasher.signatures(shingles, counts)).ravel().tolist()) if counts[0] else set()
        keys.append(bands | {text})
    roots = list(range(len(documents)))
    for _ in documents:
        for i in range(len(documents)):
            for j in range(i):
                if keys[i] & keys[j]:
                    roots[i] = roots[j] = min(roots[i], roots[j])
    return [name for i, (name, _) in enumerate(documents) if roots[i] == i]


@given(parts=PARTS, buckets=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_what_stays_is_what_comparing_every_pair_leaves(deduplicate, tmp_path_factory, parts, buckets):
    outcome = deduplicate(tmp_path_factory.mktemp("dedup"), parts, NEAR, buckets, order=shuffled)
    assert outcome.ids == plain_survivors(parts, NEAR.minhash)


@given(texts=st.lists(st.sampled_from(["", "a", "b", "a ", "今", "c\n"]), max_size=12), cut=st.integers(0, 12))
@settings(max_examples=20, deadline=None)
def test_of_equal_texts_the_first_stays(deduplicate, tmp_path_factory, texts, cut):
    outcome = deduplicate(tmp_path_factory.mktemp("dedup"), [texts[:cut], texts[cut:]], DedupSettings(exact=True), 2)
    assert outcome.texts == list(dict.fromkeys(texts))
    assert (
        outcome.report.documents_in
        == len(texts)
        == outcome.report.documents_out + sum(dropped.documents for dropped in outcome.report.dropped.values())
    )


def plain_paragraphs(texts, min_characters: int) -> list[str]:
    """Texts without the lines that came before, those that are then empty left out."""
    seen, left = set(), []
    for text in texts:
        lines, repeated = [], False
        for line in text.split("\n"):
            if len(line.strip()) >= min_characters and line.strip() in seen:
                repeated = True
                continue
            seen.add(line.strip())
            lines.append(line)
        if not repeated or "\n".join(lines).strip():
            left.append("\n".join(lines))
    return left


@given(parts=PARTS, buckets=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_each_long_line_stays_where_it_is_first(deduplicate, tmp_path_factory, parts, buckets):
    only_lines = DedupSettings(paragraphs=ParagraphSettings(6))
    outcome = deduplicate(tmp_path_factory.mktemp("dedup"), parts, only_lines, buckets)
    assert outcome.texts == plain_paragraphs([text for texts in parts for text in texts], 6)


@given(parts=PARTS, buckets=st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_the_files_are_the_same_with_any_number_of_buckets_and_order_of_tasks(
    deduplicate, tmp_path_factory, parts, buckets
):
    one, many = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("many")
    first = deduplicate(one, parts, ALL)
    second = deduplicate(many, parts, ALL, buckets, order=shuffled)
    assert contents(one / "removed") == contents(many / "removed")
    assert first == second


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@given(parts=PARTS)
@settings(max_examples=20, deadline=None)
def test_no_long_line_is_lost_with_the_documents_that_are_left_out(deduplicate, tmp_path_factory, parts):
    exact = DedupSettings(exact=True, paragraphs=ParagraphSettings(6))
    outcome = deduplicate(tmp_path_factory.mktemp("dedup"), parts, exact, 3)
    before = {line.strip() for texts in parts for text in texts for line in text.split("\n")}
    after = [line.strip() for text in outcome.texts for line in text.split("\n")]
    long_lines = [line for line in after if len(line) >= 6]
    assert sorted(long_lines) == sorted({line for line in before if len(line) >= 6})


def test_a_line_stays_though_its_first_document_is_a_near_duplicate_that_goes(deduplicate, tmp_path):
    base = " ".join(f"w{i}" for i in range(200))
    parts = [[base, base + "\nthe line in question", "something else\nthe line in question\n"]]
    settings = DedupSettings(True, MinHashSettings(), ParagraphSettings(10))
    outcome = deduplicate(tmp_path, parts, settings)
    assert outcome.ids == ["0:0", "0:2"]
    assert outcome.texts == [base, parts[0][2]]


def test_clusters_are_transitive(deduplicate, tmp_path):
    words = [f"w{i}" for i in range(260)]
    texts = [" ".join(words[10 * i : 10 * i + 100]) for i in range(12)]  # neighbours have J = 0.8, ends share nothing
    settings = DedupSettings(minhash=MinHashSettings(ngram=1, bands=40, rows=5))
    outcome = deduplicate(tmp_path, [texts[::2], texts[1::2]], settings, 3)
    assert outcome.ids == ["0:0"]
    assert outcome.summary["largest_clusters"][0]["documents"] == 12


def test_near_duplicates_are_found_and_others_are_not(deduplicate, tmp_path):
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(5000)}" for _ in range(300)) for _ in range(200)]
    copies = [re.sub(r"w7\d*", "changed", text, count=1) for text in texts]
    outcome = deduplicate(tmp_path, [texts, copies], DedupSettings(minhash=MinHashSettings()), 4)
    assert outcome.ids == [f"0:{i}" for i in range(200)]


def test_a_copy_counts_as_exact_though_it_is_near_to_others_too(deduplicate, tmp_path):
    base = " ".join(f"w{i}" for i in range(300))
    parts = [[base, base + " end"], [base, base + " end", "other"]]
    outcome = deduplicate(tmp_path, parts, DedupSettings(True, MinHashSettings()), 2, sources=["zh", "en"])
    assert outcome.ids == ["0:0", "1:2"]
    assert outcome.summary["sources"] == {
        "zh": {"exact": 0, "near": 1, "lines": 0},
        "en": {"exact": 2, "near": 0, "lines": 0},
    }
    assert outcome.summary["cluster_sizes"] == {"4": 1}
    assert outcome.summary["largest_clusters"] == [
        {
            "documents": 4,
            "examples": [{"part": p, "document": d} for p, d in [(0, 0), (0, 1), (1, 0), (1, 1)]],
        }
    ]


def test_with_scope_source_each_source_keeps_its_own(deduplicate, tmp_path):
    line = "the same line in all of them"
    parts, sources = [[line], [line], [line]], ["zh", "en", "zh"]
    both = DedupSettings(True, MinHashSettings(ngram=2), ParagraphSettings(6), "source")
    assert deduplicate(tmp_path / "a", parts, both, 3, sources).ids == ["0:0", "1:0"]
    across = DedupSettings(True, MinHashSettings(ngram=2), ParagraphSettings(6), "corpus")
    assert deduplicate(tmp_path / "b", parts, across, 3, sources).ids == ["0:0"]


def test_a_rerun_over_what_a_killed_run_left_gives_the_same_files(deduplicate, tmp_path):
    rng = random.Random(1)
    parts = [
        ["\n".join(rng.choices(["a long line", "another line", "xyz", "words"], k=3)) for _ in range(20)] for _ in "ab"
    ]
    deduplicate(tmp_path / "whole", parts, ALL, 3)
    expected = contents(tmp_path / "whole")
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for number, file in enumerate(sorted(broken.rglob("*.*"))):  # half written, missing, or left under another name
        if number % 3 == 0:
            file.rename(file.with_name(file.name + ".tmp"))
        elif number % 3 == 1:
            file.with_name(file.name + ".tmp").write_bytes(file.read_bytes()[:7])
    deduplicate(broken, parts, ALL, 3)
    assert contents(broken) == expected


def test_the_lines_that_go_are_listed_in_rising_order(deduplicate, tmp_path):
    only_lines = DedupSettings(paragraphs=ParagraphSettings(6))
    lines = [f"line number {i}" for i in range(50)]
    deduplicate(tmp_path, [["\n".join(lines), "\n".join(["new", *lines]), "\n".join(["newer", *lines])]], only_lines)
    found = open_records(dropped_lines_file(tmp_path, 0), DROPPED_LINE).tolist()
    assert found == [(document, line) for document in (1, 2) for line in range(1, 51)]


def test_an_empty_corpus_is_no_mistake(deduplicate, tmp_path):
    outcome = deduplicate(tmp_path, [[], []], ALL, 2)
    assert outcome.ids == []
    assert outcome.summary["clusters"] == 0


def test_resolving_is_one_task(tmp_path):
    with pytest.raises(ValueError, match="one task"):
        ResolveDuplicates(tmp_path, ALL, ["zh"], 1).run(None, 0, 2)
