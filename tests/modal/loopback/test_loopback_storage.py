"""Large payloads, queues, dicts, secrets and volumes."""

from __future__ import annotations

import queue as standard_queue

import modal
import modal.exception
import pytest


def test_large_payloads_go_there_and_back_unharmed(modal_loopback, serve):
    def reverse(data):
        return data[::-1]

    def through_map(data):
        (result,) = served.map([data])
        return result

    served = serve(reverse)
    calls = {"remote": served.remote, "spawn": lambda data: served.spawn(data).get(), "map": through_map}
    for how, call in calls.items():
        data = how.encode() * (1 << 20)  # another one for each, of 3 MiB or more
        modal_loopback.forget()
        assert call(data) == data[::-1], how
        assert modal_loopback.rpc_counts["BlobCreate"] == 1, how
        assert modal_loopback.rpc_counts["BlobGet"] == 1, how


def test_queues_keep_order_within_partitions(queue):
    queue.put_many([1, 2, 3])
    queue.put("other", partition="p")
    assert (queue.len(), queue.len(partition="p"), queue.len(total=True)) == (3, 1, 4)
    assert queue.get() == 1
    assert queue.get_many(10) == [2, 3]
    assert queue.get(partition="p") == "other"
    assert queue.get(block=False) is None
    with pytest.raises(standard_queue.Empty):
        queue.get(timeout=0.01)
    queue.put_many(["a", "b"])
    assert list(queue.iterate(item_poll_timeout=0.0)) == ["a", "b"]
    queue.clear()
    assert queue.len() == 0


def test_a_full_queue_says_so(queue):
    queue.put_many([0] * 5000)
    with pytest.raises(standard_queue.Full):
        queue.put(1, block=False)


def test_a_named_queue_is_the_same_for_everyone_and_can_be_deleted(modal_loopback, serve):
    def put(name, value):
        modal.Queue.from_name(name).put(value)

    made = modal.Queue.from_name("shared", create_if_missing=True)
    made.put("mine")
    serve(put).remote("shared", "theirs")
    assert made.get_many(2) == ["mine", "theirs"]
    modal.Queue.objects.delete("shared")
    with pytest.raises(modal.exception.NotFoundError, match="shared"):
        modal.Queue.from_name("shared").len()


def test_a_dict_is_shared_with_containers(modal_loopback, serve):
    def read_and_write(shared):
        shared["seen"] = shared["start"] + 1

    with modal.Dict.ephemeral() as shared:
        shared["start"] = 1
        serve(read_and_write).remote(shared)
        assert shared["seen"] == 2
        assert (shared.len(), sorted(shared.keys())) == (2, ["seen", "start"])
        assert shared.pop("start") == 1
        assert "start" not in shared


def test_secrets_reach_the_environment_and_not_the_records(modal_loopback, serve):
    def read():
        import os

        return os.environ["TOKEN"], os.environ["NAMED"]

    modal.Secret.objects.create("kept", {"NAMED": "from afar"})
    served = serve(read, secrets=[modal.Secret.from_dict({"TOKEN": "t0psecret"}), modal.Secret.from_name("kept")])
    assert served.remote() == ("t0psecret", "from afar")
    assert "t0psecret" not in repr((modal_loopback.calls, modal_loopback.containers, modal_loopback.rpcs))
    modal.Secret.objects.delete("kept")


def test_a_secret_that_lacks_a_key_is_named(modal_loopback):
    modal.Secret.objects.create("partial", {"A": "1"})
    with pytest.raises(modal.exception.NotFoundError, match=r"partial.*B"):
        modal.Secret.from_name("partial", required_keys=["A", "B"]).hydrate()
    modal.Secret.objects.delete("partial")


def test_a_volume_shows_what_was_committed_and_reloaded(modal_loopback, image):
    app = modal.App()
    volume = modal.Volume.from_name("shared-files", create_if_missing=True)

    @app.function(image=image, serialized=True, volumes={"/data": volume}, max_containers=1)
    def write(text):
        from pathlib import Path

        Path("/data/sub").mkdir(exist_ok=True)
        Path("/data/sub/file.txt").write_text(text)
        volume.commit()

    @app.function(image=image, serialized=True, volumes={"/data": volume}, max_containers=1)
    def read():
        from pathlib import Path

        before = Path("/data/sub/file.txt").exists() and Path("/data/sub/file.txt").read_text()
        volume.reload()
        return before, Path("/data/sub/file.txt").exists() and Path("/data/sub/file.txt").read_text()

    with app.run():
        assert read.remote() == (False, False)
        write.remote("one")
        assert read.remote() == (False, "one")
        write.remote("two")
        assert read.remote() == ("one", "two")
        assert b"".join(volume.read_file("sub/file.txt")) == b"two"
        assert [entry.path for entry in volume.listdir("/", recursive=True)] == ["sub", "sub/file.txt"]


def test_a_volume_takes_files_from_the_client(modal_loopback, serve, tmp_path):
    def read():
        from pathlib import Path

        return Path("/data/up/large").stat().st_size, Path("/data/up/small").read_text()

    (tmp_path / "large").write_bytes(b"x" * (9 * 1024 * 1024))  # more than a block
    (tmp_path / "small").write_text("small")
    with modal.Volume.ephemeral() as volume:
        with volume.batch_upload() as batch:
            batch.put_directory(tmp_path, "/up")
        assert serve(read, volumes={"/data": volume}).remote() == (9 * 1024 * 1024, "small")
        assert sum(map(len, volume.read_file("up/large"))) == 9 * 1024 * 1024
        volume.remove_file("up/small")
        assert [entry.path for entry in volume.listdir("up")] == ["up/large"]


def test_what_is_left_in_a_volume_is_committed_when_the_container_ends(modal_loopback, image):
    app = modal.App()
    volume = modal.Volume.from_name("on-exit", create_if_missing=True)

    @app.function(image=image, serialized=True, volumes={"/data": volume})
    def write():
        from pathlib import Path

        Path("/data/late").write_text("late")

    with app.run():
        write.remote()
    modal_loopback.stop_apps()
    assert b"".join(volume.read_file("late")) == b"late"
