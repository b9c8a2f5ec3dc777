"""Components: those of a plain search, in whatever portions and order the pairs come."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.corpus.dedup.clusters import Clusters, components

EDGES = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), max_size=40)


def plain_roots(edges) -> dict[int, int]:
    """The smallest member of its component for each vertex that has an edge."""
    roots = {vertex: vertex for edge in edges for vertex in edge}
    for _ in roots:
        for left, right in edges:
            roots[left] = roots[right] = min(roots[left], roots[right])
    return roots


@given(edges=EDGES, max_pending=st.integers(1, 50), portion=st.integers(1, 10))
def test_each_member_gets_the_smallest_of_its_component(edges, max_pending, portion):
    ids = np.array([3, *range(1 << 32, (1 << 32) + 25)], np.uint64)
    clusters = Clusters(max_pending)
    for start in range(0, len(edges), portion):
        part = np.array(edges[start : start + portion])
        clusters.add(ids[part[:, 0]], ids[part[:, 1]])
    members, roots = clusters.result()
    expected = {int(ids[v]): int(ids[r]) for v, r in plain_roots(edges).items() if v != r}
    assert dict(zip(members.tolist(), roots.tolist(), strict=True)) == expected
    assert members.tolist() == sorted(expected)


def test_a_long_chain_in_random_order_is_one_component():
    order = np.random.default_rng(0).permutation(200_000)
    labels = components(order[:-1], order[1:], len(order))
    assert not labels.any()


def test_a_star_around_its_largest_vertex_is_one_component():
    leaves = np.arange(1000)
    assert not components(leaves, np.full(1000, 1000), 1001).any()
