"""Chooses how the items of a map are started in the concurrent driver."""

from __future__ import annotations

from collections.abc import Sequence

from hypernodes.engine.choice import Frames, choose
from hypernodes.engine.drivers.concurrent.coroutine_rows import CoroutineRows
from hypernodes.engine.drivers.concurrent.item_chunks import ItemChunks
from hypernodes.engine.drivers.concurrent.maps import ItemStarter, MapActivity, OneByOne
from hypernodes.engine.drivers.concurrent.process_rows import ProcessRows
from hypernodes.engine.drivers.concurrent.thread_rows import ThreadRows
from hypernodes.engine.frames.columns import has_stand_in
from hypernodes.engine.workers.workers import Workers
from hypernodes.plan import Plan


def item_starter(owner: MapActivity, workers: Workers) -> ItemStarter:
    """Return the item starter that suits a map best: rows, chunks of activities, or single activities."""
    rows = _row_starter(owner, workers)
    if rows is not None:
        return rows
    if workers.processes is not None and workers.map_execution == "parallel":
        has_only_calls = len(owner.plan.calls) == len(owner.plan.steps) and not owner.plan.is_limited
        if has_only_calls and (workers.runs_nodes_in_order or _has_plenty(owner, workers)):
            return ItemChunks(owner, workers.processes, workers)
    return OneByOne(owner, workers.open_items_of(owner.plan))


def _row_starter(owner: MapActivity, workers: Workers) -> ItemStarter | None:
    """Return an item starter that executes items as rows; None when they need more than that."""
    plan, run = owner.plan, owner.request.run
    if workers.map_execution == "sequential" or not plan.steps or plan.batched_nodes or plan.is_limited:
        return None
    if owner.source is not None:
        return None
    if choose(plan, run, is_sequential=False, is_map=True).frames is not Frames.NONE:
        return None
    if len(plan.calls) < len(plan.steps):
        return None
    columns = owner.request.inputs.columns.values()
    if any(isinstance(column, Sequence) and has_stand_in(column) for column in columns):
        return None
    is_in_process = workers.is_in_process(is_item=True)
    if not (workers.runs_nodes_in_order or plan.is_chain or (is_in_process and _has_plenty(owner, workers))):
        return None
    if is_in_process:
        if workers.map_execution != "parallel" or not plan.needs_only_calls or workers.processes is None:
            return None
        return ProcessRows(owner, workers.processes, workers)
    if workers.has_executor:
        return None
    if plan.needs_only_calls:
        return ThreadRows(owner, workers)
    return CoroutineRows(owner, workers) if _is_awaited_throughout(plan) else None


def _has_plenty(owner: MapActivity, workers: Workers) -> bool:
    """Whether there are so many items that the calls of each need not be spread over workers."""
    return owner.total is not None and owner.total >= 2 * workers.max_workers


def _is_awaited_throughout(plan: Plan) -> bool:
    nodes = [step.node for step in plan.calls]
    return all(node.is_async and not node.retries and node.timeout is None for node in nodes)
