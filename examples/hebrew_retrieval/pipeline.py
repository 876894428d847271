"""The pipelines: one passage, one query, and the whole job made of them.

load_verses ── encode_all ─┬─ build_index ──┬─ search_all ── aggregate
                           └─ make_queries ─┘
"""

from hypernodes import Pipeline

from .corpus import load_verses
from .encoding import encode
from .evaluation import aggregate, make_queries
from .retrieval import build_index, search
from .text import normalise, strip_marks

encode_passage = Pipeline(nodes=[strip_marks, normalise, encode], name="encode_passage")
"""One verse or one query: passage, encoder -> bare_text, words, vector."""

search_passage = Pipeline(nodes=[encode_passage, search], name="search_passage")
"""One query: passage, encoder, index, top_k -> bare_text, words, vector, answer."""

retrieval = Pipeline(
    nodes=[
        load_verses,
        encode_passage.as_node(
            name="encode_all",
            input_mapping={"verses": "passage"},
            output_mapping={"bare_text": "verse_texts", "words": "verse_words", "vector": "verse_vectors"},
            map_over="verses",
        ),
        build_index,
        make_queries,
        search_passage.as_node(
            name="search_all",
            input_mapping={"queries": "passage"},
            output_mapping={
                "bare_text": "query_texts",
                "words": "query_words",
                "vector": "query_vectors",
                "answer": "answers",
            },
            map_over="queries",
        ),
        aggregate,
    ],
    name="retrieval",
)
"""The whole job: corpus, limit, encoder, questions, task, top_k, cutoffs -> answers, evaluation, and what they need."""
