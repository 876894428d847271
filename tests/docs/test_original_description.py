"""The snippets of the description that the project started from, pasted as they stand and run on Modal.

Completed only with the imports and toy functions that they leave out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

TOYS = """
import sys
from dataclasses import dataclass

import modal

from hypernodes import DiskCache, LocalBackend, Pipeline, node
from hypernodes.backend import ModalBackend


@dataclass(frozen=True)
class Document:
    text: str


@dataclass(frozen=True)
class EncodedDoc:
    embedding: list


class Encoder:
    def encode(self, text):
        return [float(len(text))]


@node(output_name="items")
def load_items(num_items: int) -> list:
    return [Document("a" * n) for n in range(num_items)]


@node(output_name="total")
def aggregate(all_encoded: list) -> float:
    return sum(each.embedding[0] for each in all_encoded)


image = modal.Image.debian_slim(python_version="{}.{}".format(*sys.version_info[:2])).uv_pip_install("cloudpickle")
"""

BASIC_USAGE = """
import modal
from hypernodes import Pipeline, node
from hypernodes.backend import ModalBackend

@node(output_name="result")
def process(x: int) -> int:
    return x * 2

# Create Modal image
image = modal.Image.debian_slim(python_version="3.12").uv_pip_install("cloudpickle")

# Create backend
backend = ModalBackend(image=image, gpu="A10G")

# Run pipeline
pipeline = Pipeline(nodes=[process]).with_backend(backend)
result = pipeline.run(inputs={"x": 21})
# result == {"result": 42}
"""

HEBREW_PIPELINE_PATTERN = """
# Single-item encoding
@node(output_name="encoded")
def encode_item(item: Document, encoder: Encoder) -> EncodedDoc:
    return EncodedDoc(embedding=encoder.encode(item.text))

# Inner pipeline
encode_single = Pipeline(nodes=[encode_item])

# Wrap for batch processing
encode_all = encode_single.as_node(
    input_mapping={"items": "item"},
    output_mapping={"encoded": "all_encoded"},
    map_over="items",
    name="encode_all"
)

# Full pipeline
pipeline = Pipeline(
    nodes=[load_items, encode_all, aggregate],
    backend=ModalBackend(image=image, gpu="A10G"),
    cache=DiskCache(path=".cache"),
)

# Run remotely with caching and progress
results = pipeline.run(inputs={"num_items": 1000})
"""

EXECUTION_CONFIGURATION = """
backend = ModalBackend(
    image=image,
    gpu="A10G",
    # Execution strategy (used inside Modal container)
    node_execution="sequential",  # How nodes in a run execute
    map_execution="threaded",     # How map items are processed
    max_workers=8,                # Workers for parallel/threaded
)
"""

FROM_LOCAL_BACKEND = """
# Before
pipeline = Pipeline(nodes=[...], backend=LocalBackend())

# After (runs on Modal, same semantics)
pipeline = Pipeline(nodes=[...], backend=ModalBackend(image=image))
"""

FROM_MANUAL_INTEGRATION = """
# After (single .remote() call, uses LocalBackend internally)
pipeline = Pipeline(nodes=[process_item]).with_backend(modal_backend)
results = pipeline.map(inputs={"item": items}, map_over="item")
"""


def run(source: str, plane, tmp_path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(source, encoding="utf-8")
    completed = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        env={**os.environ, **plane.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr


@pytest.mark.skipif(sys.version_info[:2] != (3, 12), reason="the snippet's image has Python 3.12")
def test_basic_usage(modal_loopback, tmp_path):
    run(BASIC_USAGE + '\nassert result == {"result": 42}\n', modal_loopback, tmp_path)
    assert modal_loopback.rpc_counts["FunctionMap"] == 1


def test_hebrew_pipeline_pattern(modal_loopback, tmp_path):
    # `encoder` is an input that the snippet does not give.
    pasted = HEBREW_PIPELINE_PATTERN.replace('{"num_items": 1000}', '{"num_items": 1000, "encoder": Encoder()}')
    run(TOYS + pasted + '\nassert results["total"] == sum(range(1000))\n', modal_loopback, tmp_path)
    assert modal_loopback.rpc_counts["FunctionMap"] == 1


def test_execution_configuration(modal_loopback, tmp_path):
    check = """
pipeline = Pipeline([load_items], backend=backend)
assert len(pipeline.map({"num_items": [1, 2]}, map_over="num_items")["items"]) == 2
"""
    run(TOYS + EXECUTION_CONFIGURATION + check, modal_loopback, tmp_path)
    assert modal_loopback.rpc_counts["FunctionMap"] == 1


def test_migration_from_local_backend(modal_loopback, tmp_path):
    before, after = FROM_LOCAL_BACKEND.replace("[...]", "[load_items]").split("\n\n")
    same = '\nfound = pipeline.run(inputs={"num_items": 2})\n'
    check = "assert found == on_this_machine\n"
    run(TOYS + before + same + "on_this_machine = found\n" + after + same + check, modal_loopback, tmp_path)
    assert modal_loopback.rpc_counts["FunctionMap"] == 1


def test_migration_from_manual_modal_integration(modal_loopback, tmp_path):
    toys = textwrap.dedent(
        """
        @node(output_name="processed")
        def process_item(item):
            return -item

        items = [1, 2, 3]
        modal_backend = ModalBackend(image=image)
        """
    )
    check = 'assert results == {"processed": [-1, -2, -3]}\n'
    run(TOYS + toys + FROM_MANUAL_INTEGRATION + check, modal_loopback, tmp_path)
    assert modal_loopback.rpc_counts["FunctionMap"] == 1
