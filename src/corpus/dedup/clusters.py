"""Connected components of a graph given as pairs, in NumPy: each member gets the smallest id it is connected with.

Labels are hooked to smaller ones and shortened by pointer jumping (Shiloach and Vishkin 1982). The pairs can come in
portions: what is kept between them is one pair for each member that is not the smallest of its component.
"""

import numpy as np

MAX_PENDING = 1 << 18  # pairs that are joined at once, at least


class Clusters:
    """Joins pairs of ids, uint64 of any size."""

    def __init__(self, max_pending: int = MAX_PENDING) -> None:
        self.max_pending = max_pending
        self._members = np.zeros(0, np.uint64)
        self._roots = np.zeros(0, np.uint64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._pending_count = 0

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Join left[i] with right[i]."""
        self._pending.append((left, right))
        self._pending_count += len(left)
        if self._pending_count >= max(self.max_pending, len(self._members)):
            self._join()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The members that are not the smallest of their component, rising, and the smallest of each one's."""
        self._join()
        return self._members, self._roots

    def _join(self) -> None:
        left = np.concatenate([self._members, *(pair[0] for pair in self._pending)])
        right = np.concatenate([self._roots, *(pair[1] for pair in self._pending)])
        self._pending, self._pending_count = [], 0
        ids, numbers = np.unique(np.concatenate([left, right]), return_inverse=True)
        labels = components(numbers[: len(left)], numbers[len(left) :], len(ids))
        others = np.flatnonzero(labels != np.arange(len(ids)))
        self._members, self._roots = ids[others], ids[labels[others]]


def components(left: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """The smallest vertex that each of the vertices 0 … count - 1 is connected with by the edges (left, right)."""
    labels = np.arange(count)
    while len(left):
        low, high = np.minimum(left, right), np.maximum(left, right)
        np.minimum.at(labels, high, low)
        while True:
            shorter = labels[labels]
            if np.array_equal(shorter, labels):
                break
            labels = shorter
        left, right = labels[left], labels[right]
        open_edges = left != right
        left, right = left[open_edges], right[open_edges]
    return labels
