"""Chooses how a plan is executed: the driver that runs its steps, and the frames that account for them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from hypernodes.engine.state import RunState
from hypernodes.plan import Plan


class Driver(Enum):
    """Decides who runs the next step, where and when; see the modules in `drivers/`."""

    STRAIGHT = "unrolled loops"
    IN_ORDER = "one step after the other, in the calling thread"
    CONCURRENT = "as soon as a worker is free"


class Frames(Enum):
    """Account for the steps of one execution of a plan; see the modules in `frames/`."""

    NONE = "nothing to account for but errors"
    PLAIN = "no cache"
    ON_DEMAND = "steps run if they are needed: their results are not cached, and they are not skipped"


class Choice(NamedTuple):
    """How a plan is executed."""

    driver: Driver
    frames: Frames


def choose(plan: Plan, run: RunState, *, is_sequential: bool, is_map: bool) -> Choice:
    """Choose the driver and the frames for one execution of a plan, or for a map of it.

    The modes choose the driver, the plan and its callbacks the frames; other options make no difference:

    | the plan has                        | sequential                          | otherwise                      |
    |-------------------------------------|-------------------------------------|--------------------------------|
    | no cache, not observed, all of it   | `straight.run_silent`, no frames    | `concurrent`; items that need  |
    | runs here, no step may be skipped   |                                     | only calls without frames      |
    | no cache, no step may be skipped    | `straight.run_observed` over        | `concurrent` over `Frame`      |
    |                                     | `Frame`, if all of the run is in    |                                |
    |                                     | this thread; else `in_order`        |                                |
    | a cache, all results known by       | `in_order` over `IdentifiedFrame`   | `concurrent` over the same     |
    | inputs (`items.identified_calls`)   |                                     |                                |
    | a cache, or steps that may be       | `in_order` over `DemandFrame`       | `concurrent` over the same     |
    | skipped                             |                                     |                                |

    In order, the items of a map with batched nodes are executed several at a time (`drivers/batched_items`,
    `drivers/batched_rows`). Where batches are formed of items of several maps, the concurrent driver executes the
    plan, also if all modes are "sequential": it makes the calls in this thread then.

    Where steps run on other backends with their neighbours, it executes the plan as well, so that these run meanwhile.

    Steps whose elements are taken one by one (`Plan.streams`) need frames, and are executed `in_order` or `concurrent`.

    A single item may get a more general frame than the others, because of its values (`items.ItemFrames`). How the
    items of a map are started in the concurrent driver is for `item_starters` to choose.

    Args:
        plan: The plan.
        run: The run.
        is_sequential: Whether all modes that matter for the plan are "sequential".
        is_map: Whether it is executed once per item.
    """
    if plan.runs_on_demand:
        frames = Frames.ON_DEMAND
    else:
        is_observed = run.observes(plan) if is_map else bool(plan.callbacks)
        has_own_order = plan.has_streams or (is_map and not plan.batches_alike)
        needs_frames = is_observed or not plan.is_local or plan.has_branches or has_own_order
        frames = Frames.PLAIN if needs_frames else Frames.NONE
    gathers = plan.gathers_across_maps or (is_map and plan.has_batched_maps)
    if not is_sequential or gathers or plan.has_places:
        return Choice(Driver.CONCURRENT, frames)
    has_one_thread = run.is_single_threaded and plan.is_local
    is_straight = frames is Frames.NONE or (frames is Frames.PLAIN and has_one_thread and not plan.streams)
    return Choice(Driver.STRAIGHT if is_straight else Driver.IN_ORDER, frames)
