"""N-grams are counted by hash, the same way everywhere."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from examples.hebrew_retrieval.encoding import NGramEncoder, SparseVector

PINNED_BUCKETS = [7866, 13628, 17205, 20811, 34350, 58242, 59926]


def as_counter(vector: SparseVector) -> Counter[int]:
    return Counter(dict(zip(vector.buckets.tolist(), vector.counts.tolist(), strict=True)))


def test_the_same_words_have_the_same_buckets_on_every_machine() -> None:
    vector = NGramEncoder().encode(("שלומ",))
    assert vector.buckets.tolist() == PINNED_BUCKETS
    assert vector.counts.tolist() == [1] * len(PINNED_BUCKETS)


def test_every_ngram_of_a_word_and_its_two_boundaries_is_counted() -> None:
    # " שלומ " has six characters: four n-grams of 3, three of 4.
    assert as_counter(NGramEncoder().encode(("שלומ",))).total() == 4 + 3


def test_no_ngram_reaches_across_two_words() -> None:
    encoder = NGramEncoder(sizes=(2, 3, 4, 5))
    words = ("בראשית", "ברא", "את", "ו", "אלהימ")
    word_by_word = sum((as_counter(encoder.encode((word,))) for word in words), Counter())
    assert as_counter(encoder.encode(words)) == word_by_word


def test_words_in_another_order_are_the_same_vector() -> None:
    encoder = NGramEncoder()
    one, other = encoder.encode(("הבל", "הבלימ", "אמר")), encoder.encode(("אמר", "הבלימ", "הבל"))
    assert as_counter(one) == as_counter(other)


def test_no_words_are_an_empty_vector() -> None:
    vector = NGramEncoder(sizes=(2, 3)).encode(())
    assert vector.buckets.size == vector.counts.size == 0


def test_a_vector_is_small_and_sorted() -> None:
    vector = NGramEncoder().encode(("נהרות", "בבל", "שמ", "ישבנו"))
    assert vector.buckets.dtype == vector.counts.dtype == np.uint16
    assert (np.diff(vector.buckets.astype(int)) > 0).all()


def test_the_longest_repetition_is_counted_in_full() -> None:
    assert NGramEncoder(sizes=(3,)).encode(("הבל",) * 1000).counts.tolist() == [1000] * 3


@pytest.mark.parametrize("sizes", [(3, 4), (2, 3)])
def test_many_passages_at_a_time_have_the_vectors_that_each_has_alone(sizes: tuple[int, ...]) -> None:
    encoder = NGramEncoder(sizes=sizes, bits=12)
    passages = [("נהרות", "בבל"), (), ("בבל",), ("ו",), ("הבל",) * 300, ()]
    together = encoder.encode_all(passages)
    assert list(map(as_counter, together)) == [as_counter(encoder.encode(passage)) for passage in passages]
    assert [vector.buckets.size for vector in together][1::4] == [0, 0]


def test_fewer_bits_mean_fewer_buckets() -> None:
    assert max(NGramEncoder(bits=3).encode(("בראשית", "ברא", "אלהימ")).buckets.tolist()) < 8


@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 17}, {"sizes": ()}, {"sizes": (1, 2)}])
def test_an_encoder_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NGramEncoder(**wrong)
