"""Runs every scenario in a folder once, in this process, and prints what was computed; see `test_torture`.

Each scenario is a folder with a module `pipe`, which defines `pipeline` and `inputs` and may import its neighbours. It
is run with a `DiskCache` of its own and, to know the truth, without a cache.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from hypernodes import DiskCache
from tests.support import Recorder


def main(root: Path) -> None:
    found: dict[str, Any] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        try:
            found[folder.name] = run(folder, root.parent / "caches" / folder.name)
        except Exception:
            found[folder.name] = {"error": traceback.format_exc()}
    print(json.dumps(found))


def run(folder: Path, cache_folder: Path) -> dict[str, Any]:
    places = [str(folder), *(str(path) for path in sorted(folder.glob("*.zip")))]
    libraries = folder / "libraries" / "site-packages"
    places += [str(libraries)] if libraries.is_dir() else []
    before = set(sys.modules)
    sys.path[:0] = places
    os.chdir(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module("pipe")
        recorder = Recorder()
        with contextlib.closing(DiskCache(cache_folder)) as cache, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline = module.pipeline.with_cache(cache).with_callbacks([recorder])
            cached = [repr(pipeline.run(inputs)) for inputs in all_inputs(module)]
            true = [repr(module.pipeline.run(inputs)) for inputs in all_inputs(module)]
        return {
            "computed": recorder.computed,
            "is_right": cached == true,
            "warnings": [str(warning.message) for warning in caught],
            "results": cached,
        }
    finally:
        del sys.path[: len(places)]
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")) or name == "pipe":
                del sys.modules[name]


def all_inputs(module: Any) -> list[dict[str, Any]]:
    found = module.inputs() if callable(module.inputs) else module.inputs
    return found if isinstance(found, list) else [found]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
