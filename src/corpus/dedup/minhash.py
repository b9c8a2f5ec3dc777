"""MinHash signatures and the keys of their bands (Broder 1997; Indyk and Motwani 1998 for the bands).

A permutation is the multiplication of a shingle's upper 32 bits by a random odd number modulo 2^32; the shingles are
well mixed before. Each gives two rows of the signature, its smallest and its largest value ("Min-Max Hash", Ji et al.,
ICDM 2013), which halves the work: both are equal in two sets with the probability of their Jaccard similarity. Smallest
values make the first half of the bands and largest ones the second, so the rows of a band come from as many
permutations.
"""

import numpy as np

from src.corpus.dedup.settings import MinHashSettings
from src.corpus.dedup.shingles import mix

BLOCK_SHINGLES = 1 << 16  # multiplied at once: block and products stay in the cache


class MinHasher:
    """Turns the shingles of a batch of documents into signatures and band keys."""

    def __init__(self, settings: MinHashSettings) -> None:
        self.settings = settings
        self._low_bands = (settings.bands + 1) // 2
        random = np.random.Generator(np.random.PCG64(settings.seed))
        factors = random.integers(0, 1 << 32, settings.rows * self._low_bands, dtype=np.uint32)
        self._factors = factors | np.uint32(1)
        self._weights = random.integers(0, 1 << 64, settings.rows, dtype=np.uint64) | np.uint64(1)
        self._salts = random.integers(0, 1 << 64, settings.bands, dtype=np.uint64)

    def signatures(self, shingles: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Signatures of documents, uint32 ``[bands, rows, documents]``.

        shingles: uint64, one document after another; counts: of each, at least 1.
        """
        rows, low_bands = self.settings.rows, self._low_bands
        points = (shingles >> np.uint64(32)).astype(np.uint32)
        lowest = np.full((len(self._factors), len(counts)), np.iinfo(np.uint32).max, np.uint32)
        highest = np.zeros_like(lowest)
        ends = np.cumsum(counts)
        starts = ends - counts
        products = np.empty(min(len(points), BLOCK_SHINGLES), np.uint32)
        for begin in range(0, len(points), BLOCK_SHINGLES):
            block = points[begin : begin + BLOCK_SHINGLES]
            first = int(np.searchsorted(ends, begin, side="right"))
            last = int(np.searchsorted(starts, begin + len(block)))
            cuts = np.maximum(starts[first:last] - begin, 0)
            product = products[: len(block)]
            for low, high, factor in zip(lowest[:, first:last], highest[:, first:last], self._factors, strict=True):
                np.multiply(block, factor, out=product)
                np.minimum(low, np.minimum.reduceat(product, cuts), out=low)
                np.maximum(high, np.maximum.reduceat(product, cuts), out=high)
        both = (part.reshape(low_bands, rows, len(counts)) for part in (lowest, highest))
        return np.concatenate(list(both))[: self.settings.bands]

    def keys(self, signatures: np.ndarray) -> np.ndarray:
        """A key for each band, uint64 ``[bands, documents]``; bands never share keys."""
        sums = np.repeat(self._salts[:, None], signatures.shape[2], axis=1)
        for row, weight in enumerate(self._weights):
            sums = mix(sums + (signatures[:, row] + np.uint64(1)) * weight)
        return sums
