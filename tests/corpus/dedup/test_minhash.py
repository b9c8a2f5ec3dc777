"""MinHash: the estimate is unbiased, and bands meet as often as the theory says."""

import numpy as np
import pytest

from src.corpus.dedup.minhash import BLOCK_SHINGLES, MinHasher
from src.corpus.dedup.settings import MinHashSettings
from src.corpus.dedup.shingles import shingle_hashes


def pairs_of_sets(random: np.random.Generator, pairs: int, size: int, similarity: float) -> tuple[np.ndarray, float]:
    """Shingles of `pairs` pairs of sets, ``[2 * pairs, size]``, and the Jaccard similarity each pair has."""
    shared = round(2 * size * similarity / (1 + similarity))
    points = random.integers(0, 1 << 64, (pairs, 2 * size - shared), dtype=np.uint64)
    left, right = points[:, :size], np.concatenate([points[:, :shared], points[:, size:]], axis=1)
    return np.stack([left, right], axis=1).reshape(2 * pairs, size), shared / (2 * size - shared)


def signatures(hasher: MinHasher, sets: np.ndarray) -> np.ndarray:
    return hasher.signatures(sets.ravel(), np.full(len(sets), sets.shape[1]))


@pytest.mark.parametrize("size", [3, 10, 100, 1000])
@pytest.mark.parametrize("similarity", [0.0, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_the_share_of_equal_rows_estimates_the_similarity_without_bias(size, similarity):
    random = np.random.default_rng(size)
    pairs = 500
    sets, similarity = pairs_of_sets(random, pairs, size, similarity)
    found = signatures(MinHasher(MinHashSettings(bands=16, rows=8)), sets)
    equal = (found[..., ::2] == found[..., 1::2]).mean(axis=(0, 1))  # one estimate a pair
    error = abs(equal.mean() - similarity)
    # as with 128 independent permutations: the mean and the spread of binomials, within 4.5 standard errors
    spread = np.sqrt(similarity * (1 - similarity) / 128)
    assert error <= 4.5 * spread / np.sqrt(pairs) + 1e-9
    assert equal.std() <= spread * (1 + 4.5 / np.sqrt(2 * pairs)) + 1e-9


@pytest.mark.parametrize("size", [8, 60, 500])
@pytest.mark.parametrize("similarity", [0.4, 0.6, 0.7, 0.8, 0.9])
def test_pairs_share_a_band_as_often_as_the_theory_says(size, similarity):
    settings = MinHashSettings()
    pairs = 3000 if size < 100 else 1000
    sets, similarity = pairs_of_sets(np.random.default_rng(size), pairs, size, similarity)
    hasher = MinHasher(settings)
    keys = hasher.keys(signatures(hasher, sets))
    met = (keys[:, ::2] == keys[:, 1::2]).any(axis=0).mean()
    theory = 1 - (1 - similarity**settings.rows) ** settings.bands
    assert abs(met - theory) < 0.03 + 4 * np.sqrt(theory * (1 - theory) / pairs)


def test_unrelated_documents_share_no_key():
    hasher = MinHasher(MinHashSettings())
    sets = np.random.default_rng(0).integers(0, 1 << 64, (20_000, 30), dtype=np.uint64)
    keys = hasher.keys(signatures(hasher, sets))
    assert len(np.unique(keys)) == keys.size


def test_a_document_over_several_blocks_has_the_signature_of_its_set():
    hasher = MinHasher(MinHashSettings(bands=5, rows=3))
    random = np.random.default_rng(0)
    counts = np.array([7, 2 * BLOCK_SHINGLES + 5, 1, BLOCK_SHINGLES - 13, 40])
    shingles = random.integers(0, 1 << 64, counts.sum(), dtype=np.uint64)
    together = hasher.signatures(shingles, counts)
    for index, own in enumerate(np.split(shingles, np.cumsum(counts)[:-1])):
        shuffled = random.permutation(np.concatenate([own, own[:3]]))
        alone = hasher.signatures(shuffled, np.array([len(shuffled)]))
        assert np.array_equal(alone[..., 0], together[..., index])


def test_equal_words_make_equal_keys_whatever_the_punctuation():
    hasher = MinHasher(MinHashSettings())
    shingles, counts = shingle_hashes(["The quick, brown fox jumps!", "the QUICK brown\nfox -- jumps"], 5)
    keys = hasher.keys(hasher.signatures(shingles, counts))
    assert np.array_equal(keys[:, 0], keys[:, 1])


def test_another_seed_makes_other_keys():
    shingles, counts = shingle_hashes(["The quick brown fox jumps over the lazy dog"], 5)
    first, second = (MinHasher(MinHashSettings(seed=seed)) for seed in (1, 2))
    assert not np.any(
        first.keys(first.signatures(shingles, counts)) == second.keys(second.signatures(shingles, counts))
    )
