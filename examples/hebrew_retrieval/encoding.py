"""Words as a sparse vector of hashed character n-grams.

Character n-grams find a verse in spite of prefixes, suffixes and spelling variants, in which Hebrew is rich, without
any knowledge of its grammar. Each n-gram is counted in a bucket chosen by its hash, so there is no vocabulary to build
or to keep (the hashing trick: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009).
Their random signs are left out: the n-grams of this corpus, about 39,000, collide too rarely to need them.
"""

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
        characters = np.frombuffer(("".join(f" {word}" for word in words) + " ").encode("utf-32-le"), dtype=np.uint32)
        hashes = np.concatenate([_ngram_hashes(characters, size) for size in self.sizes])
        buckets = (hashes * _GOLDEN_RATIO) >> np.uint64(64 - self.bits)
        occurring, counts = np.unique(buckets, return_counts=True)
        return SparseVector(occurring.astype(np.uint16), counts.astype(np.uint16))


@node(output_name="vector")
def encode(words: Words, encoder: NGramEncoder) -> SparseVector:
    """The words as a sparse vector."""
    return encoder.encode(words)


def _ngram_hashes(characters: NDArray[np.uint32], size: int) -> NDArray[np.uint64]:
    """A polynomial hash of every n-gram of `size` characters that has no space but at its ends."""
    count = max(characters.size - size + 1, 0)
    windows = [characters[offset : offset + count] for offset in range(size)]
    hashes = np.full(count, size, dtype=np.uint64)
    crosses_words = np.zeros(count, dtype=bool)
    for offset, window in enumerate(windows):
        hashes = hashes * _POLYNOMIAL_BASE + window
        if 0 < offset < size - 1:
            crosses_words |= window == _SPACE
    return hashes[~crosses_words]
