"""Calling functions: remote, spawn, map, generators, errors, and the records of it."""

from __future__ import annotations

import traceback

import modal
import modal.exception
import pytest


def double(x):
    return 2 * x


def test_a_remote_call_runs_once_in_another_process(modal_loopback, serve):
    import os

    def where():
        import os

        return os.getpid()

    served = serve(where)
    pid = served.remote()
    assert pid != os.getpid()
    assert modal_loopback.rpc_counts["FunctionMap"] == 1
    (call,) = modal_loopback.calls_of("where")
    (container,) = modal_loopback.containers
    assert [given.status for given in call.inputs] == ["SUCCESS"]
    assert call.inputs[0].container_ids == (container.id,)
    assert container.pid == pid
    assert (container.inputs_taken, container.function_name) == (1, "where")


def test_a_spawned_call_is_found_again_by_its_id(modal_loopback, serve):
    call = serve(double).spawn(21)
    assert modal.FunctionCall.from_id(call.object_id).get() == 42
    assert call.get() == 42
    assert modal_loopback.calls_of("double")[0].is_spawned


def test_get_says_that_a_call_still_runs(serve, queue):
    def wait(queue):
        return queue.get()

    call = serve(wait).spawn(queue)
    with pytest.raises(TimeoutError):
        call.get(timeout=0)
    queue.put("done")
    assert call.get() == "done"


def test_an_exception_arrives_with_its_type_and_the_remote_traceback(serve):
    def fail(x):
        raise KeyError(f"no {x}")

    with pytest.raises(KeyError, match="no verse") as caught:
        serve(fail).remote("verse")
    assert "in fail" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_map_keeps_order_and_counts_as_one_call(modal_loopback, serve):
    served = serve(double)
    assert list(served.map(range(120))) == [2 * x for x in range(120)]
    (call,) = modal_loopback.calls
    assert call.is_map
    assert len(call.inputs) == 120
    assert len(modal_loopback.containers) >= 2


def test_starmap_and_unordered_map_give_every_result(serve):
    def power(x, n):
        return x**n

    served = serve(power)
    assert list(served.starmap([(2, 3), (3, 2)])) == [8, 9]
    assert sorted(served.map([1, 2, 3], [2, 2, 2], order_outputs=False)) == [1, 4, 9]


def test_map_can_return_exceptions_in_place(serve):
    def fails_on_odd(x):
        if x % 2:
            raise ValueError(x)
        return x

    results = list(serve(fails_on_odd).map(range(4), return_exceptions=True))
    assert [results[0], results[2]] == [0, 2]
    assert [str(results[1]), str(results[3])] == ["1", "3"]


def test_a_generator_streams_what_it_yields(serve, queue):
    def count(n, queue):
        for number in range(n):
            yield number
            if number == 0:
                queue.get()  # the first arrives before the rest exists

    stream = serve(count).remote_gen(5, queue)
    assert next(stream) == 0
    queue.put("go on")
    assert list(stream) == [1, 2, 3, 4]


def test_an_async_function_is_called_like_any_other(serve):
    async def later(x):
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert serve(later).remote(1) == 2


def test_a_function_calls_another_from_its_container(modal_loopback, image):
    app = modal.App()

    @app.function(image=image, serialized=True, name="inner")
    def inner(x):
        return x + 1

    @app.function(image=image, serialized=True, name="outer")
    def outer(x):
        return inner.remote(x) * 10

    with app.run():
        assert outer.remote(1) == 20
    assert [call.function_name for call in modal_loopback.calls] == ["outer", "inner"]
    assert modal_loopback.rpc_counts["FunctionMap"] == 1  # the other came from a container


def test_what_was_printed_reaches_the_clients_terminal(modal_loopback, image, capfd):
    app = modal.App()

    @app.function(image=image, serialized=True)
    def talk():
        import sys

        print("to standard output")
        print("אבג to standard error", file=sys.stderr)

    with modal.enable_output(), app.run():
        talk.remote()
    shown = capfd.readouterr().out
    assert "to standard output\n" in shown
    assert "אבג to standard error\n" in shown
    assert "to standard output\n" in modal_loopback.output


def test_logs_of_one_call_can_be_asked_for(serve, modal_loopback):
    def say(word):
        print(word)

    served = serve(say)
    for word in ("first", "second"):
        served.remote(word)
    assert modal_loopback.output.split() == ["first", "second"]


def test_a_call_of_an_app_that_has_stopped_is_refused(image, modal_loopback):
    app = modal.App()
    served = app.function(image=image, serialized=True)(double)
    with app.run():
        served.hydrate()
        kept = served
    with pytest.raises(modal.exception.Error):
        kept.remote(1)
