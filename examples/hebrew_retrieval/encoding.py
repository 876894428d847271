"""Words as a sparse vector of hashed character n-grams.

Character n-grams find a verse in spite of prefixes, suffixes and spelling variants, in which Hebrew is rich, without
any knowledge of its grammar. Each n-gram is counted in a bucket chosen by its hash, so there is no vocabulary to build
or to keep (the hashing trick: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009).
Their random signs are left out: the n-grams of this corpus, about 39,000, collide too rarely to need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hypernodes import node

from .text import Words

_SPACE = ord(" ")
_POLYNOMIAL_BASE = np.uint64(1_000_003)
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / phi: Knuth's multiplicative hashing


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """How often each bucket occurs; buckets that do not occur are left out."""

    buckets: NDArray[np.uint16]  # ascending
    counts: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class NGramEncoder:
    """Encodes words as counts of hashed character n-grams.

    Attributes:
        sizes: Lengths of the n-grams, in characters. The space on either side of a word counts as one of its
            characters, so that the beginning and the end of a word weigh in.
        bits: There are `2**bits` buckets; at most 16, because bucket numbers are kept in two bytes.
    """

    sizes: tuple[int, ...] = (3, 4)
    bits: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits must be between 1 and 16, not {self.bits}")
        if not self.sizes or min(self.sizes) < 2:
            raise ValueError(f"sizes must be n-gram lengths of at least 2, not {self.sizes}")

    def encode(self, words: Words) -> SparseVector:
        """Count the n-grams inside the words; none reaches across two words."""
        return self.encode_all([words])[0]

    def encode_all(self, passages: Sequence[Words]) -> list[SparseVector]:
        """Do the same for the words of several passages: one vector for each."""
        words = [word for passage in passages for word in passage]
        characters = np.frombuffer(("".join(f" {word}" for word in words) + " ").encode("utf-32-le"), dtype=np.uint32)
        lengths = [sum(len(word) + 1 for word in passage) for passage in passages]
        owners = np.repeat(np.arange(len(passages), dtype=np.uint64), lengths)  # of the n-gram that begins there
        found = []
        for size in self.sizes:
            hashes, is_inside = _ngram_hashes(characters, size)
            buckets = (hashes * _GOLDEN_RATIO) >> np.uint64(64 - self.bits)
            found.append(((owners[: hashes.size] << np.uint64(self.bits)) | buckets)[is_inside])
        occurring, counts = np.unique(np.concatenate(found), return_counts=True)
        ends = np.searchsorted(occurring, np.arange(1, len(passages), dtype=np.uint64) << np.uint64(self.bits))
        within = (occurring & np.uint64(2**self.bits - 1)).astype(np.uint16)
        pairs = zip(np.split(within, ends), np.split(counts.astype(np.uint16), ends), strict=True)
        return [SparseVector(own.copy(), own_counts.copy()) for own, own_counts in pairs]


@node(output_name="vector", batch_over="words", batch_size=256)
def encode(words: list[Words], encoder: NGramEncoder) -> list[SparseVector]:
    """The words of each passage as a sparse vector; many at a time, which takes an eighth of the time."""
    return encoder.encode_all(words)


def _ngram_hashes(characters: NDArray[np.uint32], size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A polynomial hash of every n-gram of `size` characters, and whether it has no space but at its ends."""
    count = max(characters.size - size + 1, 0)
    windows = [characters[offset : offset + count] for offset in range(size)]
    hashes = np.full(count, size, dtype=np.uint64)
    crosses_words = np.zeros(count, dtype=bool)
    for offset, window in enumerate(windows):
        hashes = hashes * _POLYNOMIAL_BASE + window
        if 0 < offset < size - 1:
            crosses_words |= window == _SPACE
    return hashes, ~crosses_words
