"""Merging, splitting and converting lose and invent nothing, and leave folders that training reads."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.shards.collection import Reading, open_collection
from src.shards.convert import FORMATS, Writing, convert, cut, merge, split
from src.shards.format import Shard
from src.shards.manifest import Counts, Manifest
from src.shards.source import Source
from src.shards.token_file import Span
from src.shards.verify import verify
from tests.shards.shard_cases import DOCUMENTS, Letters, contents, make_source, write


def all_documents(path, reading=None):
    return [document for file in open_collection(path, reading).files for document in contents(file)]


@given(st.lists(st.lists(st.lists(st.integers(0, 65535), max_size=5), max_size=4), max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_chain_of_formats_gives_the_same_bytes_back(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("chain")
    write(folder / "start", documents)
    for middle in ("npy", "megatron"):
        there = convert(open_collection(folder / "start"), folder / f"{middle}_there", Writing(middle))
        back = convert(open_collection(there), folder / f"{middle}_back", Writing("megatron"))
        for suffix in (".bin", ".idx"):
            assert back.with_suffix(suffix).read_bytes() == (folder / f"start{suffix}").read_bytes()
    triple = convert(open_collection(folder / "start"), folder / "triple", Writing("knowlm"))
    samples = [[segment] for document in documents for segment in document]
    assert all_documents(triple) == samples


def test_documents_of_a_triple_come_back_by_their_first_id(tmp_path):
    documents = [[[1, 5], [6, 2]], [[1, 7, 2]]]
    write(tmp_path / "a", documents)
    triple = convert(open_collection(tmp_path / "a"), tmp_path / "k", Writing("knowlm"))
    assert all_documents(triple, Reading(document_start=1)) == documents


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_stays_a_folder_with_a_manifest_in_every_format(tmp_path, form):
    made = make_source(tmp_path, files=2)
    written = convert(open_collection(made), tmp_path / form, Writing(form))
    collection = open_collection(written)
    assert collection.format == form and sorted(collection.splits) == ["train", "validation"]
    assert collection.manifest.total.tokens == Manifest.load(made).total.tokens
    assert not [check for check in verify(collection) if check.problem]
    again = convert(collection, tmp_path / "again", Writing("megatron"))
    assert Source.open(again, "train").lengths.tolist() == Source.open(made, "train").lengths.tolist()


def test_merging_adds_up_documents_counts_and_kinds(tmp_path):
    parts = [make_source(tmp_path, "zh"), make_source(tmp_path, "en", splits=("train",))]
    merged = merge([open_collection(part) for part in parts], tmp_path / "both", Writing())
    manifest = Manifest.load(merged)
    assert manifest.source == "both" and manifest.settings == {"merge": [{"of": "zh"}, {"of": "en"}]}
    assert manifest.splits == {"train": Counts(10, 12, 20, 54), "validation": Counts(5, 6, 10, 27)}
    assert [contents(file) for file in open_collection(merged).splits["train"]] == [DOCUMENTS * 2]
    assert not [check for check in verify(open_collection(merged)) if check.problem]
    triple = merge([open_collection(part) for part in parts], tmp_path / "kinds", Writing("knowlm"))
    assert open_collection(triple).splits["train"][0].groups == (6, 6)


def test_shards_of_two_tokenizers_are_not_merged(tmp_path):
    first, second = make_source(tmp_path, "zh"), make_source(tmp_path, "en")
    replace(Manifest.load(second), tokenizer_name="other", tokenizer_fingerprint="0" * 64).save(second)
    with pytest.raises(UserError, match=r"tokenizer 'letters' .* 'zh' and 'other' .* 'en'"):
        merge([open_collection(first), open_collection(second)], tmp_path / "both", Writing())
    write(tmp_path / "bare")
    with pytest.raises(UserError, match=r"bare has no manifest\.json and the others have"):
        merge([open_collection(first), open_collection(tmp_path / "bare")], tmp_path / "both", Writing())
    assert not (tmp_path / "both").exists()


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=8),
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_parts_are_all_documents_once_and_as_large_as_asked_to_one_document(tmp_path_factory, sizes, shares):
    folder = tmp_path_factory.mktemp("parts")
    documents = [[[1] * size for size in document] for document in sizes]
    spans = [Span.whole(Shard(write(folder / name, documents))) for name in "ab"]
    edges = np.cumsum([0, *shares]) / sum(shares)
    parts = [cut(spans, low, high) for low, high in itertools.pairwise(edges.tolist())]
    spans_seen = [span for part in parts for span in part]
    seen = [(span.file.path.name, number) for span in spans_seen for number in range(span.begin, span.end)]
    assert seen == [(name, number) for name in "ab" for number in range(len(documents))]
    total, longest = sum(len(span.tokens) for span in spans), max((sum(map(len, d)) for d in documents), default=0)
    reached = 0
    for part, edge in zip(parts, edges[1:], strict=True):
        reached += sum(len(span.tokens) for span in part)
        assert abs(reached - edge * total) <= longest + 1


def test_a_split_folder_becomes_folders_with_shares_of_every_split(tmp_path):
    made = make_source(tmp_path)
    parts = split(open_collection(made), [1, 1, 1], tmp_path / "part", Writing())
    assert [part.name for part in parts] == ["part-00000", "part-00001", "part-00002"]
    assert [document for part in parts for document in contents(Source.open(part, "train").shards[0])] == DOCUMENTS
    assert sum((Manifest.load(part).total for part in parts), Counts()).tokens == Manifest.load(made).total.tokens
    assert not [check for part in parts for check in verify(open_collection(part)) if check.problem]


@pytest.mark.parametrize("shares", [[], [1, 0], [-1, 2], [1, "a"], [float("inf"), 1], [float("nan")]])
def test_shares_that_make_no_parts_are_refused(tmp_path, shares):
    write(tmp_path / "a")
    with pytest.raises(UserError, match="can't be made"):
        split(open_collection(tmp_path / "a"), shares, tmp_path / "b", Writing())


def test_foreign_shards_become_trainable_with_their_tokenizer(tmp_path):
    write(tmp_path / "theirs", DOCUMENTS * 10)
    written = convert(open_collection(tmp_path / "theirs"), tmp_path / "ours", Writing(), Letters(), 0.2)
    manifest = Manifest.load(written)
    manifest.check_tokenizer(Letters())
    assert (manifest.max_length, manifest.dtype, manifest.vocabulary_size) == (3, "uint16", 300)
    assert manifest.splits == {"train": Counts(40, 48, 80, 216), "validation": Counts(10, 12, 20, 54)}
    assert len(Source.open(written, "validation")) == 12
    assert not [check for check in verify(open_collection(written)) if check.problem]


@pytest.mark.parametrize("fraction", [1.5, 1.0, -0.1, "0.1", True, float("nan"), None])
def test_a_fraction_that_is_no_share_is_refused(tmp_path, fraction):
    write(tmp_path / "theirs")
    with pytest.raises(UserError, match=rf"validation_fraction={fraction} is no share of the tokens"):
        convert(open_collection(tmp_path / "theirs"), tmp_path / "ours", Writing(), Letters(), fraction)


def test_one_document_is_not_set_aside_and_nothing_left_to_train_on(tmp_path):
    np.save(tmp_path / "stream.npy", np.arange(1, 201, dtype=np.uint16))
    with pytest.raises(UserError, match=r"stream\.npy has 1 document, and validation_fraction=0\.01 leaves none"):
        convert(open_collection(tmp_path / "stream.npy"), tmp_path / "ours", Writing("megatron"), Letters(), 0.01)
    assert not (tmp_path / "ours").exists()
    whole = convert(open_collection(tmp_path / "stream.npy"), tmp_path / "ours", Writing("megatron"), Letters(), 0)
    assert Manifest.load(whole).splits == {"train": Counts(1, 1, 200, 600)}
    rows = open_collection(tmp_path / "stream.npy", Reading(row_length=10))
    cut_up = convert(rows, tmp_path / "rows", Writing("megatron"), Letters(), 0.05)
    assert {name: counts.tokens for name, counts in Manifest.load(cut_up).splits.items()} == {
        "train": 190,
        "validation": 10,
    }


def test_foreign_shards_of_another_tokenizer_are_refused(tmp_path):
    write(tmp_path / "theirs", [[[1, 300]]])
    with pytest.raises(UserError, match=r"holds id 300 .* 'letters' has 300: another tokenizer"):
        convert(open_collection(tmp_path / "theirs"), tmp_path / "ours", Writing(), Letters(), 0.2)


def test_nothing_is_overwritten_unless_asked_for(tmp_path):
    made = make_source(tmp_path)
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(UserError, match="exists: give another output, or overwrite=true"):
        convert(open_collection(made), made, Writing("npy"))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    convert(open_collection(made), made, Writing("npy", overwrite=True))
    assert open_collection(made).format == "npy"
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists and is no folder of shards: give another output"):
        convert(open_collection(made), tmp_path / "mine", Writing("npy", overwrite=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "zh"]


def test_what_a_killed_run_left_aside_does_not_stop_the_next(tmp_path):
    made = make_source(tmp_path)
    (tmp_path / ".zh.old").mkdir()
    (tmp_path / ".zh.old" / "train-00000.bin").write_bytes(b"old")
    convert(open_collection(made), made, Writing("npy", overwrite=True))
    assert open_collection(made).format == "npy"
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def test_a_failure_leaves_the_old_result_and_nothing_of_the_new(tmp_path):
    made = make_source(tmp_path)
    raw = bytearray((made / "validation-00000.idx").read_bytes())
    raw[34 + 28 + 8] ^= 2  # the second pointer
    (made / "validation-00000.idx").write_bytes(raw)
    with pytest.raises(UserError, match="damaged at segment"):
        convert(open_collection(made), tmp_path / "new", Writing("npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def test_an_unknown_format_is_named():
    with pytest.raises(UserError, match="to=parquet is no format of token shards: choose one of megatron, knowlm, npy"):
        Writing("parquet")
