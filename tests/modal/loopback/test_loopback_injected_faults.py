"""A control plane that was told to misbehave: the client gets over it, or says what happened."""

from __future__ import annotations

import modal.exception
import pytest

from hypernodes_modal.loopback.faults import (
    DelayReplies,
    DropReplies,
    DuplicateReplies,
    KillContainer,
    PreemptContainer,
    RefuseConnections,
    ReorderReplies,
    RunOutOfMemory,
    StartCold,
)


def double(x):
    return 2 * x


@pytest.mark.parametrize("moment", ["start", "input", "output", "after output"])
def test_a_killed_container_does_not_lose_the_call(modal_loopback, serve, moment):
    modal_loopback.inject_faults(KillContainer(moment))
    served = serve(double)
    assert served.remote(1) == 2
    assert served.remote(2) == 4
    killed = [each for each in modal_loopback.containers if each.end_reason == "killed"]
    assert [each.exit_code for each in killed] == [137]


def test_a_preempted_container_gives_its_input_back_however_often(modal_loopback, serve):
    modal_loopback.inject_faults(PreemptContainer("input", times=3))
    assert serve(double).remote(1) == 2
    assert [each.end_reason for each in modal_loopback.containers[:3]] == ["preempted"] * 3


def test_running_out_of_memory_twice_fails_the_call_and_says_so(modal_loopback, serve):
    modal_loopback.inject_faults(RunOutOfMemory("input", times=2))
    with pytest.raises(modal.exception.RemoteError, match=r"137 \(out of memory\)"):
        serve(double).remote(1)


def test_lost_delayed_doubled_and_reordered_replies_change_no_result(modal_loopback, serve):
    served = serve(double)
    served.hydrate()
    modal_loopback.inject_faults(
        DropReplies("Function*", probability=0.2),
        DelayReplies("Function*", probability=0.3, seconds=(0.0, 0.05)),
        DuplicateReplies("Function*", probability=0.3),
        ReorderReplies("FunctionGetOutputs", probability=0.3),
        seed=7,
    )
    assert [served.remote(x) for x in range(5)] == [0, 2, 4, 6, 8]
    assert list(served.map(range(60))) == [2 * x for x in range(60)]
    assert len(modal_loopback.calls) == 6  # a question that came twice was answered twice, and done once
    assert any(record.is_repeated for record in modal_loopback.rpcs)


def test_each_input_runs_once_although_every_third_reply_is_lost(modal_loopback, serve, queue):
    def count(x, queue):
        queue.put(x)
        return x

    served = serve(count)
    served.hydrate()
    modal_loopback.inject_faults(DropReplies("Function*", probability=0.33), seed=3)
    assert sorted(served.map(range(20), [queue] * 20)) == list(range(20))
    modal_loopback.inject_faults()
    assert sorted(queue.get_many(100)) == list(range(20))


def test_a_generator_is_complete_although_its_stream_is_disturbed(modal_loopback, serve):
    def count(n):
        yield from range(n)

    modal_loopback.inject_faults(DuplicateReplies("FunctionCallGetDataOut"), DropReplies("FunctionCallPutDataOut", 0.5))
    assert list(serve(count).remote_gen(50)) == list(range(50))


def test_a_spawned_call_outlives_refused_connections(modal_loopback, serve, queue):
    def wait(queue):
        return queue.get()

    call = serve(wait).spawn(queue)
    queue.put("still there")
    modal_loopback.refuse_connections(0.3)
    assert call.get() == "still there"


def test_connections_can_be_refused_at_a_given_moment(modal_loopback, serve):
    served = serve(double)
    served.hydrate()
    modal_loopback.inject_faults(RefuseConnections("FunctionGetOutputs", nth=2, seconds=0.2))
    assert [served.remote(x) for x in range(3)] == [0, 2, 4]


def test_the_same_seed_loses_the_same_replies(modal_loopback, serve):
    served = serve(double)
    served.hydrate()

    def lost(seed):
        modal_loopback.inject_faults(DropReplies("FunctionMap", probability=0.4), seed=seed)
        before = len(modal_loopback.rpcs)
        for x in range(8):
            served.remote(x)
        return [record.is_repeated for record in modal_loopback.rpcs[before:] if record.name == "FunctionMap"]

    first = lost(seed=1)
    assert lost(seed=1) == first
    assert lost(seed=2) != first


def test_containers_can_be_made_to_start_cold(modal_loopback, serve):
    modal_loopback.inject_faults(StartCold(seconds=0.5))
    serve(double).remote(1)
    assert modal_loopback.containers[0].cold_start_s > 0.5
