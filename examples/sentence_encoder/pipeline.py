"""One sentence: sentence, encoder -> vector. The node is batched, so the items of a map are encoded many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy import float32
from numpy.typing import NDArray

from hypernodes import Pipeline, node, resource


@resource
def word_llama() -> Iterator[Any]:
    """The encoder of WordLlama, with the weights that its distribution carries: vectors of 256 numbers."""
    import wordllama

    folder = Path(wordllama.__file__).parent
    yield wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def embed(sentence: list[str], encoder: Any) -> NDArray[float32]:
    """The vectors of some sentences, of length 1, as the rows of a matrix."""
    vectors: NDArray[float32] = encoder.embed(sentence, norm=True)
    return vectors


def encoding(batch_size: int) -> Pipeline:
    """Return the pipeline that encodes up to `batch_size` sentences at a time."""
    batched = node(output_name="vector", batch_over="sentence", batch_size=batch_size)(embed)
    return Pipeline(nodes=[batched], name="encoding").with_inputs(encoder=word_llama())
