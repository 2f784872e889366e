"""Families of near-duplicate texts, so that a held-out item has no near-copy in training.

Texts are compared by the word 5-grams that they contain. Two texts are near-duplicates when they
share at least CONTAINMENT of the 5-grams of the one that has fewer (Broder 1997, "On the
resemblance and containment of documents"); a family is a connected component of that relation.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

SHINGLE_WORDS = 5
CONTAINMENT = 0.6
_WORD = re.compile(r"[a-z0-9]+")


def shingles(text: str, size: int) -> frozenset[tuple[str, ...]]:
    """The word n-grams of a text, without regard to case and punctuation.

    A text of fewer than `size` words is one shingle, so that equal short texts are equal; a text
    without a word has none.
    """
    words = tuple(_WORD.findall(text.lower()))
    if len(words) <= size:
        return frozenset([words] if words else [])
    return frozenset(words[i : i + size] for i in range(len(words) - size + 1))


def families(texts: Sequence[str]) -> list[int]:
    """For each text the number of its family, which is the lowest index of a text in it."""
    sets = [shingles(text, SHINGLE_WORDS) for text in texts]
    parent = list(range(len(texts)))
    for (first, second), shared in _shared(sets).items():
        if shared >= CONTAINMENT * min(len(sets[first]), len(sets[second])):
            a, b = _root(parent, first), _root(parent, second)
            parent[max(a, b)] = min(a, b)
    return [_root(parent, index) for index in range(len(texts))]


def overlap(texts: Iterable[str], others: Iterable[str], size: int) -> int:
    """How many of `texts` share at least one word n-gram of full length with any of `others`."""
    known = {gram for text in others for gram in shingles(text, size) if len(gram) == size}
    return sum(not known.isdisjoint(shingles(text, size)) for text in texts)


def _shared(sets: Sequence[frozenset[tuple[str, ...]]]) -> Counter[tuple[int, int]]:
    """For each pair of texts that share a shingle, how many they share."""
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, grams in enumerate(sets):
        for gram in grams:
            holders[gram].append(index)
    counts: Counter[tuple[int, int]] = Counter()
    for indices in holders.values():
        for position, first in enumerate(indices):
            counts.update((first, second) for second in indices[position + 1 :])
    return counts


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index
