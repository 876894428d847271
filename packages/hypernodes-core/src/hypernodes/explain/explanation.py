"""The result of `Pipeline.explain`, which displays well in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from hypernodes.checks import shown
from hypernodes.durations import in_words
from hypernodes.nearest import suggest

Status: TypeAlias = Literal["hit", "run", "partly", "unknown", "not needed", "overridden", "skipped"]

_MOMENT_S = 0.1
_STATUS_WORDS: dict[Status, str] = {
    "hit": "hit",
    "run": "would run",
    "partly": "partly",
    "unknown": "not known yet",
    "not needed": "not needed",
    "overridden": "replaced",
    "skipped": "skipped",
}


class NodeExplanation(NamedTuple):
    """What a run would do with one node.

    Attributes:
        name: Name of the node.
        path: Names of the nested pipelines that contain it, within the explained one; outermost first.
        hits: How often its results would come from the cache: at most once in a run, else once per item.
        runs: How often it would run.
        repeats: How often it would find a result that the same run computed before, for an equal item.
        unknown: How often it is not known yet whether it would run, because it depends on a step that would run first.
        has_unknown_items: Whether the number of its items is not known yet, either.
        reasons: Why it would run, or why that is not known yet; the most specific first.
        is_overridden: Whether a given value replaces it.
        skipped: How often it would be skipped, because a condition does not hold.
        seconds_per_run: How long it took when it was computed last; None when that is not known, or it would not run.
    """

    name: str
    path: tuple[str, ...]
    hits: int
    runs: int
    repeats: int
    unknown: int
    has_unknown_items: bool
    reasons: tuple[str, ...]
    is_overridden: bool = False
    skipped: int = 0
    seconds_per_run: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long it would run in all, going by the last time; None when that is not known."""
        return None if self.seconds_per_run is None else self.runs * self.seconds_per_run

    @property
    def status(self) -> Status:
        """The status as one word."""
        if self.is_overridden:
            return "overridden"
        kinds = (bool(self.hits), bool(self.runs or self.repeats), bool(self.unknown or self.has_unknown_items))
        if sum(kinds) > 1:
            # It is certain that it runs, though not how often.
            return "run" if not self.hits and not self.unknown else "partly"
        statuses: tuple[Status, ...] = ("hit", "run", "unknown")
        otherwise: Status = "skipped" if self.skipped else "not needed"
        return next((status for status, is_so in zip(statuses, kinds, strict=True) if is_so), otherwise)

    @property
    def counts(self) -> str:
        """The counts in words."""
        if self.is_overridden or self.status == "not needed":
            return _STATUS_WORDS[self.status]
        times = self.hits + self.runs + self.repeats + self.unknown + self.skipped
        if times <= 1 and not self.has_unknown_items:
            return _STATUS_WORDS[self.status]
        pairs = (
            (self.hits, "hit"),
            (self.runs, "would run"),
            (self.repeats, "equal to one before"),
            (self.unknown, "not known yet"),
            (self.skipped, "skipped"),
        )
        words = [f"{number} {word}" for number, word in pairs if number]
        if self.has_unknown_items:
            words.append("unknown number of items" if not words else "more items not known yet")
        return ", ".join(words)

    @property
    def counts_and_time(self) -> str:
        """The counts in words, with the time that running would take if it is more than a moment."""
        long = self.seconds is not None and self.seconds >= _MOMENT_S
        return f"{self.counts}, about {in_words(self.seconds or 0.0)}" if long else self.counts

    @property
    def title(self) -> str:
        """Its name, after the names of the pipelines that contain it."""
        return " → ".join((*self.path, self.name))


class Explanation:
    """What a run or a map would find in its caches, what it would compute, and why.

    Attributes:
        pipeline_id: Id of the pipeline.
        nodes: Its nodes, with those of nested pipelines, in the order in which they would run.
        items: Number of items of the map; None for a run.
        items_found: Number of items that need no computation; None for a run.
        warnings: The warnings that the run would show.
    """

    def __init__(
        self,
        pipeline_id: str,
        nodes: Sequence[NodeExplanation],
        items: int | None = None,
        items_found: int | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.pipeline_id = pipeline_id
        self.nodes = tuple(nodes)
        self.items = items
        self.items_found = items_found
        self.warnings = tuple(warnings)

    @property
    def hits(self) -> int:
        """Number of results that would come from a cache."""
        return sum(node.hits for node in self.nodes)

    @property
    def runs(self) -> int:
        """Number of calls of nodes that are certain."""
        return sum(node.runs for node in self.nodes)

    @property
    def seconds(self) -> float:
        """How long the nodes would run in all, one after the other, as far as caches say how long they took before."""
        return sum(node.seconds or 0.0 for node in self.nodes)

    @property
    def unknown(self) -> int:
        """Number of needed results for which it is not known yet whether they are in a cache."""
        return sum(node.unknown for node in self.nodes)

    @property
    def is_fully_cached(self) -> bool:
        """Whether no node would run."""
        return not any(node.runs or node.unknown or node.has_unknown_items for node in self.nodes)

    def __getitem__(self, name: str | tuple[str, ...]) -> NodeExplanation:
        """Return the explanation of a node.

        Args:
            name: Its name; or the names of the pipelines that contain it and its name, if several nodes have that name.

        Raises:
            KeyError: No node has this name, or several have.
        """
        given: Any = name
        path: tuple[str, ...] = (name,) if isinstance(name, str) else ()
        if isinstance(given, (tuple, list)):
            path = tuple(given)
        found = [node for node in self.nodes if (*node.path, node.name)[-len(path) :] == path]
        if len(found) == 1 and path:
            return found[0]
        if found and path:
            paths = ", ".join(repr((*node.path, node.name)) for node in found)
            raise KeyError(f"several nodes are called {name!r}; use one of {paths}")
        names = [node.name for node in self.nodes]
        hint = suggest(str(path[-1]) if path else "", names)
        raise KeyError(f"no node is called {shown(name)}{hint}; there are {', '.join(map(repr, names))}")

    @property
    def summary(self) -> str:
        """The counts of all nodes in one line."""
        pairs = ((self.hits, "hit"), (self.runs, "would run"), (self.unknown, "not known yet"))
        counts = ", ".join(f"{number} {word}" for number, word in pairs if number) or "nothing to compute"
        if any(node.has_unknown_items for node in self.nodes):
            counts += ", and an unknown number of items"
        if self.seconds >= _MOMENT_S:
            counts += f", about {in_words(self.seconds)} of work"
        over = "" if self.items is None else f", map over {self.items} items ({self.items_found} fully cached)"
        return f"pipeline {self.pipeline_id!r}{over}: {counts}"

    def __repr__(self) -> str:
        rows = [(node.title, node.counts_and_time, "; ".join(node.reasons)) for node in self.nodes]
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        lines = [
            f"  {title:<{widths[0]}}  {counts:<{widths[1]}}  {reasons}".rstrip() for title, counts, reasons in rows
        ]
        return "\n".join([self.summary, *lines, *(f"warning: {text}" for text in self.warnings)])

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align: left">{escape(text)}</td>'
                for text in (node.title, node.counts_and_time, "; ".join(node.reasons))
            )
            + "</tr>"
            for node in self.nodes
        )
        heads = "".join(f'<th style="text-align: left">{head}</th>' for head in ("node", "cache", "why"))
        warnings = "".join(f"<p>warning: {escape(text)}</p>" for text in self.warnings)
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<p>{escape(self.summary)}</p>{table}{warnings}"
