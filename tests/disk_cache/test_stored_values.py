"""What comes back is what was put: by pickle, by cloudpickle where pickle cannot, or not at all."""

from __future__ import annotations

import gc
import io
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypernodes import MISS, CacheWarning
from hypernodes_cache import DiskCache
from hypernodes_cache.entry_format import Sealer
from hypernodes_cache.value_encoding import decode, encode
from tests.support import run_python, start_python

LARGE = 300_000


@pytest.mark.parametrize("size", [0, 1, 100, 40_000, LARGE])
@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back_as_they_were(size: int, compress: bool | int, open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache(compress=compress)
    frozen = np.arange(size, dtype=np.int16)
    frozen.flags.writeable = False
    value = {
        "plain": np.arange(size, dtype=np.float32),
        "frozen": frozen,
        "strided": np.arange(2 * size)[::2],
        "fortran": np.asfortranarray(np.arange(2 * size).reshape(2, size)),
        "text": "x" * size,
    }
    cache.put("k", value)
    found = cache.get("k")
    assert found.keys() == value.keys()
    for name in ("plain", "frozen", "strided", "fortran"):
        expected, array = value[name], found[name]
        assert isinstance(expected, np.ndarray)
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)
        assert array.flags.writeable == expected.flags.writeable
    assert found["fortran"].flags.f_contiguous
    if size:
        found["plain"][0] = -1
        assert cache.get("k")["plain"][0] == 0


@pytest.mark.parametrize("size", [0, 10, LARGE])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_come_back_as_the_type_they_were(
    kind: type, size: int, compress: bool, open_cache: Callable[..., DiskCache]
) -> None:
    cache = open_cache(compress=compress)
    cache.put("k", kind(b"x" * size))
    found = cache.get("k")
    assert type(found) is kind
    assert found == b"x" * size


def test_compression_makes_entries_smaller_and_either_kind_reads_the_other(
    open_cache: Callable[..., DiskCache],
) -> None:
    plain, compressed = open_cache(), open_cache(compress=True)
    plain.put("p", ["text"] * LARGE)
    compressed.put("c", ["text"] * LARGE)
    sizes = {entry.key: entry.size_bytes for entry in plain.entries()}
    assert sizes["c"] < sizes["p"] / 10
    assert plain.get("c") == compressed.get("p") == ["text"] * LARGE


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@pytest.mark.slow
@given(value=json_like, key=st.text(), other=st.text(), level=st.sampled_from([0, 1]))
def test_what_is_sealed_opens_with_its_key_only(value: Any, key: str, other: str, level: int) -> None:
    sealer = Sealer(b"s" * 32, level)
    try:
        entry = sealer.seal(key, encode(value))
    except UnicodeEncodeError:
        return  # a lone surrogate, which no key has
    assert decode(*sealer.open(key, entry)) == value
    for wrong_sealer, wrong_key in ((Sealer(b"t" * 32), key), (sealer, other)):
        if (wrong_sealer, wrong_key) != (sealer, key):
            with pytest.raises(Exception, match=r"changed, moved|surrogates"):
                wrong_sealer.open(wrong_key, entry)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=5), level=st.sampled_from([0, 1]))
def test_a_file_gives_back_its_buffers(lengths: list[int], level: int, tmp_path: Path) -> None:
    buffers = [np.random.default_rng(length).integers(0, 9, length) for length in lengths]
    path = tmp_path / "sub" / "file"
    path.unlink(missing_ok=True)
    sealer = Sealer(b"s" * 32, level)
    assert sealer.write(str(path), "k", encode(buffers)) == path.stat().st_size
    found = decode(*sealer.read(str(path), "k"))
    assert all(np.array_equal(a, b) for a, b in zip(found, buffers, strict=True))


def test_a_seal_is_what_hmac_of_the_standard_library_says() -> None:
    import hashlib
    import hmac

    entry = Sealer(b"s" * 32).seal("key", encode([1, 2]))
    message = (3).to_bytes(8, "little") + b"key" + entry[:-32]
    assert hmac.digest(b"s" * 32, message, hashlib.sha256) == entry[-32:]


# --- what pickle cannot take -------------------------------------------------------------------------------------


def test_an_object_of_a_class_made_inside_a_function_comes_back(open_cache: Callable[..., DiskCache]) -> None:
    @dataclass
    class Local:
        number: int

    cache = open_cache()
    cache.put("k", [Local(1), lambda x: x + 1])
    found, function = cache.get("k")
    assert found == Local(1)
    assert function(1) == 2
    (entry,) = cache.entries()
    assert entry.codec == "cloudpickle"


def test_nothing_is_left_of_storing_a_class_by_value_that_cannot_be_freed(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Local:
        pass

    troubles: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", troubles.append)
    open_cache().put("k", Local())
    gc.collect()
    assert not troubles


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: memoryview(b"abc"), lambda: (x for x in [1])],
    ids=["lock", "memoryview", "generator"],
)
def test_what_neither_can_take_is_refused_with_the_error_of_pickle(
    make: Callable[[], Any], open_cache: Callable[..., DiskCache]
) -> None:
    cache = open_cache()
    with pytest.raises(TypeError, match="cannot pickle"):
        cache.put("k", make())
    assert not cache.contains("k")


def test_an_open_file_is_not_stored_as_something_else(open_cache: Callable[..., DiskCache], tmp_path: Path) -> None:
    """Cloudpickle would store what is in the file, and give back a StringIO."""
    (tmp_path / "file").write_text("text")
    with open(tmp_path / "file", encoding="utf-8") as file, pytest.raises(TypeError, match="cannot pickle"):
        open_cache().put("k", file)
    stream = io.BytesIO(b"abc")
    stream.read(1)
    open_cache().put("k", stream)
    assert open_cache().get("k").read() == b"bc"


def test_the_other_values_of_a_batch_are_stored(open_cache: Callable[..., DiskCache]) -> None:
    cache = open_cache()
    with pytest.raises(TypeError, match="cannot pickle"):
        cache.put_many({"a": 1, "b": threading.Lock(), "c": b"x" * LARGE})
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "c": b"x" * LARGE}


def test_code_of_another_python_is_computed_again(
    open_cache: Callable[..., DiskCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache()
    monkeypatch.setattr("hypernodes_cache.value_encoding._PYTHON", b"cpython-2.7")
    cache.put("k", lambda: 1)
    monkeypatch.undo()
    with pytest.warns(CacheWarning, match=r"contains code for cpython-2\.7"):
        assert cache.get("k") is MISS


# --- __main__ ----------------------------------------------------------------------------------------------------

PROGRAM = """
import enum, sys, warnings
from dataclasses import dataclass
from hypernodes import MISS, DiskCache

{definition}

warnings.simplefilter("always")
with DiskCache("cache") as cache:
    if sys.argv[1] == "put":
        cache.put("k", [Point(1, 2)])
    else:
        found = cache.get("k")
        print("miss" if found is MISS else found == [Point(1, 2)] and type(found[0]) is Point)
"""
POINT = "@dataclass\nclass Point:\n    x: int\n    y: int"
REFORMATTED = "# Where it is.\n@dataclass\nclass Point:\n\n    x : int\n    y : int"
CHANGED = "@dataclass\nclass Point:\n    x: int\n    y: int\n    def norm(self): return self.x"
GONE = "def Point(x, y): return None"


@pytest.mark.parametrize(
    ("second", "expected", "reason"),
    [
        (POINT, "True", ""),
        (REFORMATTED, "True", ""),
        (CHANGED, "miss", "has changed since"),
        (GONE, "miss", "has changed since"),
        ("P = 1", "miss", "of a different __main__"),
    ],
    ids=["same", "reformatted", "changed", "another thing", "gone"],
)
def test_a_class_of_main_counts_only_where_main_still_has_it(
    second: str, expected: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "first.py").write_text(PROGRAM.format(definition=POINT))
    (tmp_path / "second.py").write_text(PROGRAM.format(definition=second))
    assert run_python("first.py", "put", cwd=tmp_path) == ""
    process = start_python("second.py", "get", cwd=tmp_path)
    out, err = process.communicate(timeout=240)
    assert (out.strip(), process.returncode) == (expected, 0)
    assert reason in err


SENTINELS = """
import sys, warnings
from hypernodes import MISS, DiskCache

class Slotted:
    __slots__ = ("name",)
    def __init__(self, name): self.name = name

class Single:
    def __reduce__(self): return "SINGLE"

UNSET, SLOTTED, SINGLE = object(), Slotted("SLOTTED"), Single()
{second}
warnings.simplefilter("always")
with DiskCache("cache") as cache:
    if sys.argv[1] == "put":
        cache.put("k", [UNSET, SLOTTED, SINGLE])
    found = cache.get("k")
    print("miss" if found is MISS else [x is y for x, y in zip(found, [UNSET, SLOTTED, SINGLE])])
"""


@pytest.mark.parametrize(
    ("second", "expected"),
    [("", "[True, True, True]"), ("UNSET = 5", "miss"), ("SLOTTED = None", "miss")],
    ids=["same", "another thing", "gone"],
)
def test_sentinels_of_main_are_those_that_main_has_now(second: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "first.py").write_text(SENTINELS.format(second=""))
    (tmp_path / "second.py").write_text(SENTINELS.format(second=second))
    assert run_python("first.py", "put", cwd=tmp_path) == "[True, True, True]\n"
    process = start_python("second.py", "get", cwd=tmp_path)
    assert process.communicate(timeout=240)[0] == f"{expected}\n"


# --- memory ------------------------------------------------------------------------------------------------------

MEMORY = """
import json, resource, sys
import numpy as np
from hypernodes import DiskCache

MEGABYTES = 200
kind, action = sys.argv[1:]
with DiskCache("cache") as cache:
    cache.put("small", np.zeros(10))
    cache.get("small")
    if action == "put":
        value = np.ones(MEGABYTES << 17) if kind == "array" else b"x" * (MEGABYTES << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if action == "put":
        cache.put("k", value)
    else:
        value = cache.get("k")
        assert value[-1] in (1.0, 120)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 / MEGABYTES)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident sizes are told in other units elsewhere")
@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_large_values_are_not_copied_in_memory(kind: str, tmp_path: Path) -> None:
    """Writing takes next to no memory beyond the value, and reading only the value itself."""
    (tmp_path / "job.py").write_text(MEMORY)
    assert float(run_python("job.py", kind, "put", cwd=tmp_path)) < 0.1
    assert float(run_python("job.py", kind, "get", cwd=tmp_path)) < 1.1
