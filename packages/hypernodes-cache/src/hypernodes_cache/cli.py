"""The command `hypernodes cache`: lists, explains, evicts and removes the entries of a cache directory."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Container, Iterable, Sequence

from hypernodes import ConfigurationError
from hypernodes.extension import describe_record, is_record_key
from hypernodes_cache.disk_cache import DiskCache
from hypernodes_cache.inspection import Entry, printable

_SIZE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHORTEST_PREFIX = 6  # of a key; fewer characters are more likely to be the name of a node


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `hypernodes cache` to its parser."""
    parser.description = "List, evict or remove the entries of a cache directory. Safe while other processes use it."
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[DiskCache, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("path", metavar="PATH", help="the directory given to DiskCache(path=...)")
        added.set_defaults(run=_opened(run))
        return added

    ls = command("ls", _ls, "list entries")
    ls.add_argument("--node", help="only results of this node")
    ls.add_argument("--sort", choices=("age", "size", "used"), default="age", help="newest, largest or used last first")
    ls.add_argument("--limit", type=int, default=50, help="how many to show; 0 for all (default: 50)")
    command("stats", _stats, "count entries and bytes, for each node")
    target = "a key, the beginning of a key, or the name of a node"
    why = command("why", _why, "show the metadata of entries, and what their nodes were last computed from")
    why.add_argument("what", metavar="KEY_OR_NODE", help=target)
    invalidate = command("invalidate", _invalidate, "remove entries, so that they are computed again")
    invalidate.add_argument("what", metavar="KEY_OR_NODE", nargs="+", help=target)
    gc = command("gc", _gc, "evict entries by size and age, and delete leftovers of killed processes and damage")
    gc.add_argument("--size-limit", type=_size, help="evict until the entries take at most this, e.g. 500MB or 20GiB")
    gc.add_argument("--unused-for", type=_age, help="evict entries unused for this long, e.g. 12h, 30d or 8w")
    command("clear", _clear, "remove all entries")
    for name, run, text in (
        ("pin", _pin, "protect entries from eviction"),
        ("unpin", _unpin, "allow entries to be evicted again"),
    ):
        command(name, run, text).add_argument("what", metavar="KEY_OR_NODE", nargs="+", help=target)


def _opened(run: Callable[[DiskCache, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def open_and_run(arguments: argparse.Namespace) -> int:
        path = os.path.expanduser(arguments.path)
        if not os.path.isfile(os.path.join(path, "cache.db")):
            print(f"hypernodes cache: there is no cache in {path}", file=sys.stderr)
            return 2
        try:
            with DiskCache(path) as cache:
                return run(cache, arguments)
        except ConfigurationError as error:
            print(f"hypernodes cache: {error}", file=sys.stderr)
            return 2

    return open_and_run


# --- reading -----------------------------------------------------------------------------------------------------


def _ls(cache: DiskCache, arguments: argparse.Namespace) -> int:
    order: dict[str, Callable[[Entry], float]] = {
        "age": lambda entry: -entry.stored_at,
        "size": lambda entry: -entry.size_bytes,
        "used": lambda entry: -entry.used_at,
    }
    entries = sorted(_results(cache.entries()), key=order[arguments.sort])
    if arguments.node is not None:
        entries = [entry for entry in entries if entry.label == arguments.node]
    shown = entries[: arguments.limit] if arguments.limit > 0 else entries
    _print_table(
        ("key", "node", "size", "age", "used", ""),
        [
            (
                entry.key,
                entry.label or "-",
                _in_bytes(entry.size_bytes),
                _ago(entry.stored_at),
                _ago(entry.used_at),
                "pinned" if entry.is_pinned else "",
            )
            for entry in shown
        ],
    )
    if len(shown) < len(entries):
        print(f"... and {len(entries) - len(shown)} more (--limit 0 shows all)")
    return 0


def _stats(cache: DiskCache, _: argparse.Namespace) -> int:
    by_node: dict[str, list[Entry]] = {}
    for entry in _results(cache.entries()):
        by_node.setdefault(entry.label or "-", []).append(entry)
    _print_table(
        ("node", "entries", "size", "newest", "oldest"),
        [
            (
                label,
                str(len(entries)),
                _in_bytes(sum(entry.size_bytes for entry in entries)),
                _ago(max(entry.stored_at for entry in entries)),
                _ago(min(entry.stored_at for entry in entries)),
            )
            for label, entries in sorted(by_node.items())
        ],
    )
    count = sum(map(len, by_node.values()))
    print(f"{_count(count, 'entry', 'entries')}, {_in_bytes(cache.stats().size_bytes or 0)} on disk")
    return 0


def _why(cache: DiskCache, arguments: argparse.Namespace) -> int:
    everything = list(cache.entries())
    entries = _matching(everything, [arguments.what])
    if not entries:
        return _report_no_match(arguments.what)
    for entry in sorted(entries, key=lambda entry: -entry.stored_at):
        print(entry.key)
        print(f"  node    {entry.label or 'not recorded'}")
        print(f"  stored  {_date(entry.stored_at)}, {_ago(entry.stored_at)} ago")
        print(f"  used    {_ago(entry.used_at)} ago")
        print(f"  size    {_in_bytes(entry.size_bytes)}, {entry.codec}{', pinned' if entry.is_pinned else ''}")
    labels = {entry.label for entry in entries if entry.label}
    for record in _records(everything, labels):
        print(f"recorded when {record.label} was last computed:")
        found = cache.get_many([record.key])
        lines = describe_record(found[record.key]) if found else ["cannot be read"]
        print("\n".join(f"  {printable(line)}" for line in lines))
    return 0


# --- changing ----------------------------------------------------------------------------------------------------


def _invalidate(cache: DiskCache, arguments: argparse.Namespace) -> int:
    records = _records(cache.entries(), arguments.what)
    status = _for_each(cache, arguments.what, cache.delete, "removed")
    if status == 0:
        for record in records:
            cache.delete(record.key)
    return status


def _pin(cache: DiskCache, arguments: argparse.Namespace) -> int:
    return _for_each(cache, arguments.what, cache.pin, "pinned")


def _unpin(cache: DiskCache, arguments: argparse.Namespace) -> int:
    return _for_each(cache, arguments.what, cache.unpin, "unpinned")


def _for_each(cache: DiskCache, wanted: Sequence[str], act: Callable[[str], None], done: str) -> int:
    everything = list(cache.entries())
    for what in wanted:
        if not _matching(everything, [what]):
            return _report_no_match(what)
    entries = _matching(everything, wanted)
    for entry in entries:
        act(entry.key)
    print(f"{_count(len(entries), 'entry', 'entries')} {done}")
    return 0


def _gc(cache: DiskCache, arguments: argparse.Namespace) -> int:
    removed = cache.collect(size_limit=arguments.size_limit, unused_for_s=arguments.unused_for)
    print(f"{_count(removed.entries, 'entry', 'entries')} and {_count(removed.leftovers, 'leftover')} removed")
    return 0


def _clear(cache: DiskCache, _: argparse.Namespace) -> int:
    count = len(cache)
    cache.clear()
    print(f"{_count(count, 'entry', 'entries')} removed")
    return 0


# --- parsing and formatting -------------------------------------------------------------------------------------------


def _matching(entries: Iterable[Entry], wanted: Sequence[str]) -> list[Entry]:
    prefixes = tuple(what for what in wanted if len(what) >= _SHORTEST_PREFIX)
    return [
        entry
        for entry in _results(entries)
        if entry.label in wanted or entry.key in wanted or (prefixes and entry.key.startswith(prefixes))
    ]


def _results(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if not is_record_key(entry.key)]


def _records(entries: Iterable[Entry], labels: Container[str]) -> list[Entry]:
    """Return the records about nodes with these names."""
    return [
        entry for entry in entries if is_record_key(entry.key) and entry.label is not None and entry.label in labels
    ]


def _report_no_match(what: str) -> int:
    hint = "" if len(what) >= _SHORTEST_PREFIX else f" (the prefix of a key has at least {_SHORTEST_PREFIX} characters)"
    print(f"hypernodes cache: no entry has {what!r} as its key or node name{hint}", file=sys.stderr)
    return 1


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.strip().upper())
    unit = match[2] if match else "?"
    unit = unit if unit in _SIZE_UNITS else f"{unit}B"
    if not match or unit not in _SIZE_UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 20GiB")
    size = int(float(match[1]) * _SIZE_UNITS[unit])
    if size < 1:
        raise argparse.ArgumentTypeError("a size limit is at least one byte; `clear` removes all entries")
    return size


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 12h, 30d or 8w")
    return float(match[1]) * _AGE_UNITS[match[2]]


def _in_bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    if moment <= 0:
        return "?"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _date(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):  # not written by DiskCache
        return "?"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
