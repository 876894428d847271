"""How many containers there are, and how long they stay."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import modal

from hypernodes_modal.loopback.environments import Environment, Environments
from hypernodes_modal.loopback.recipes import Recipe


def pid():
    import os

    return os.getpid()


def test_a_warm_container_is_used_again(modal_loopback, serve):
    served = serve(pid)
    assert len({served.remote() for _ in range(4)}) == 1
    assert len(modal_loopback.containers) == 1


def test_an_idle_container_ends_after_its_window(modal_loopback, serve, wait_for):
    served = serve(pid, scaledown_window=2)
    first = served.remote()
    ended = wait_for(lambda: [each for each in modal_loopback.containers if each.state == "ended"])
    assert (ended[0].end_reason, ended[0].exit_code) == ("idle", 0)
    assert served.remote() != first


def test_min_containers_start_before_the_first_call(modal_loopback, serve, wait_for):
    serve(pid, min_containers=2)
    wait_for(lambda: [each.state for each in modal_loopback.containers] == ["ready", "ready"])
    assert modal_loopback.calls == []


def test_a_single_use_container_takes_one_input(modal_loopback, serve, wait_for):
    served = serve(pid, single_use_containers=True)
    assert served.remote() != served.remote()
    wait_for(lambda: [each.state for each in modal_loopback.containers] == ["ended", "ended"])
    assert [each.end_reason for each in modal_loopback.containers] == ["single use", "single use"]


def test_max_containers_is_kept(modal_loopback, serve):
    served = serve(pid, max_containers=1)
    assert len({*served.starmap([()] * 8)}) == 1
    assert len(modal_loopback.containers) == 1


def test_concurrent_inputs_share_a_container(modal_loopback, image):
    app = modal.App()

    @app.function(image=image, serialized=True, max_containers=1)
    @modal.concurrent(max_inputs=2)
    def meet(mine, theirs, queue):
        queue.put(mine, partition=mine)
        return queue.get(partition=theirs)  # only comes when the other runs at the same time

    with app.run(), modal.Queue.ephemeral() as queue:
        assert list(meet.starmap([("a", "b", queue), ("b", "a", queue)])) == ["b", "a"]


def test_batched_inputs_arrive_together(modal_loopback, image):
    app = modal.App()

    @app.function(image=image, serialized=True, max_containers=1)
    @modal.batched(max_batch_size=4, wait_ms=1000)
    def sizes(xs):
        return [len(xs)] * len(xs)

    with app.run():
        assert max(sizes.map(range(8))) == 4


def test_a_class_keeps_state_between_its_methods(modal_loopback, image):
    app = modal.App()

    @app.cls(image=image, serialized=True, max_containers=1)
    class Counter:
        start: int = modal.parameter(default=0)

        @modal.enter()
        def begin(self):
            self.value = self.start

        @modal.method()
        def add(self, n):
            self.value += n
            return self.value

        @modal.method()
        def read(self):
            return self.value

        @modal.exit()
        def end(self):
            print("left with", self.value)

    with app.run():
        counter = Counter(start=10)
        assert counter.add.remote(1) == 11
        assert counter.read.remote() == 11
        assert Counter().add.remote(1) == 1  # other arguments, other container
    modal_loopback.stop_apps()
    assert "left with 11" in modal_loopback.output


def test_with_options_opens_another_pool(modal_loopback, image):
    app = modal.App()

    @app.cls(image=image, serialized=True)
    class Where:
        @modal.method()
        def pid(self):
            import os

            return os.getpid(), os.environ.get("EXTRA")

    with app.run():
        plain = Where().pid.remote()
        other = Where.with_options(secrets=[modal.Secret.from_dict({"EXTRA": "yes"})], timeout=9)().pid.remote()
    assert plain[1] is None
    assert other[1] == "yes"
    assert plain[0] != other[0]


def test_containers_that_start_together_make_one_environment(tmp_path, monkeypatch):
    made: list[Path] = []
    together = threading.Barrier(2, timeout=0.5)

    def make(environments, directory, recipe, log):
        made.append(directory)
        with suppress(threading.BrokenBarrierError):  # the other one waits outside
            together.wait()
        return Environment(directory / "python", directory, ())

    monkeypatch.setattr(Environments, "_make", make)
    environments = Environments(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(environments.get, [Recipe(), Recipe()])
    assert first is second
    assert len(made) == 1
