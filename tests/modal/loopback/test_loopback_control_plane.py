"""The control plane itself: where it listens, whom it serves, what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import modal
import modal.exception
import pytest

from hypernodes_modal.cli import main
from hypernodes_modal.loopback import ModalLoopback
from hypernodes_modal.loopback.rpc import all_rpcs

pytest_plugins = ["pytester"]


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _run(source, *, expect=0, arguments=(), **options):
    done = subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(source)], capture_output=True, text=True, **options
    )
    assert done.returncode == expect, done.stderr
    return done.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_the_control_plane_refuses_to_be_reachable_from_other_machines(host):
    with pytest.raises(ValueError, match="loopback"):
        ModalLoopback(host)


def test_the_environment_is_restored_and_nothing_is_left():
    out = _run(
        """
        import os, sys, threading, warnings
        warnings.simplefilter("error")
        os.environ["MODAL_TOKEN_ID"] = "mine"
        os.environ["MODAL_PROFILE"] = "work"
        before = dict(os.environ)
        import modal
        from hypernodes_modal.loopback import ModalLoopback

        def double(x):
            return 2 * x

        for _ in range(2):  # the second is not confused by what the client remembers of the first
            with ModalLoopback() as plane:
                assert "MODAL_PROFILE" not in os.environ
                app = modal.App()
                served = app.function(serialized=True)(double)
                with app.run():
                    assert served.remote(1) == 2
                directory, pid, port = plane.directory, plane.containers[0].pid, plane.url.rpartition(":")[2]
            assert dict(os.environ) == before
            assert not directory.exists()
            assert not [each for each in threading.enumerate() if "loopback" in each.name]
            print(pid, port)
        """
    )
    for line in out.splitlines():
        pid, port = map(int, line.split())
        assert not _is_running(pid)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_objects_at_the_top_of_a_module_work_with_one_control_plane_after_the_other():
    _run(
        """
        import modal
        from hypernodes_modal.loopback import ModalLoopback

        app = modal.App()
        queue = modal.Queue.from_name("q", create_if_missing=True)
        answers = modal.Function.from_name("deployed", "double")

        @app.function(serialized=True, image=modal.Image.debian_slim(), name="double")
        def double(x):
            return 2 * x

        for number in range(2):
            with ModalLoopback() as plane:
                with app.run():
                    assert double.remote(number) == 2 * number
                queue.put(number)
                assert queue.get_many(2) == [number]
                app.deploy(name="deployed")
                assert answers.remote(number) == 2 * number
        """
    )


def test_containers_end_when_their_owner_is_killed(wait_for):
    source = """
        import sys, threading
        import modal
        from hypernodes_modal.loopback import ModalLoopback

        def busy():
            import subprocess, sys, threading
            child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
            print(child.pid, flush=True)
            threading.Event().wait()

        plane = ModalLoopback()
        plane.start()
        app = modal.App()
        served = app.function(serialized=True)(busy)
        with app.run():
            served.spawn()
            while not plane.output:
                pass
            print(plane.containers[0].pid, plane.output.strip(), plane.directory, flush=True)
            threading.Event().wait()
    """
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True)
    with owner:
        container, child, directory = owner.stdout.readline().split()
        assert _is_running(container)
        assert _is_running(child)
        owner.send_signal(signal.SIGKILL)
    wait_for(lambda: not _is_running(container) and not _is_running(child) and not Path(directory).exists())


def test_a_program_without_the_token_is_turned_away(modal_loopback, monkeypatch):
    stranger = modal.Client.from_credentials("ak-guessed", "as-guessed")
    with pytest.raises(modal.exception.AuthError, match="loopback"):
        modal.Queue.from_name("q", create_if_missing=True, client=stranger).hydrate()


def test_calls_without_the_token_are_not_recorded(modal_loopback):
    stranger = modal.Client.from_credentials("ak-guessed", "as-guessed")
    for _ in range(3):
        with pytest.raises(modal.exception.AuthError, match="loopback"):
            modal.Queue.from_name("q", create_if_missing=True, client=stranger).hydrate()
    assert modal_loopback.rpcs == []


def test_records_of_calls_are_bounded(modal_loopback, queue):
    records = modal_loopback._parts.dispatcher.records
    queue.put(1)
    record = modal_loopback.rpcs[-1]
    modal_loopback._look(lambda: records.extend([record] * 100_001))
    assert len(modal_loopback.rpcs) == 100_000


def _http(method, url, data=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_what_was_announced_with_the_token_can_be_uploaded(modal_loopback):
    blobs = modal_loopback._parts.blobs
    url = modal_loopback._look(lambda: blobs.new_upload_url(1000))
    base, _, blob_id = url.rpartition("/")
    folder = modal_loopback.directory / "blobs"
    before = set(folder.iterdir())
    for stranger in ("anything", "bl-" + "0" * 32, blob_id[:-1], f"..%2F{blob_id}"):
        status, _ = _http("PUT", f"{base}/{stranger}", b"x" * 10)
        assert status in (403, 404)
    assert _http("PUT", url, b"x" * 1001)[0] == 413
    assert _http("PUT", url, iter([b"x" * 600, b"x" * 600]))[0] == 413  # its length is not said in advance
    assert set(folder.iterdir()) == before
    assert _http("GET", url)[0] == 404
    assert _http("PUT", url, b"x" * 1000) == (200, blob_id.encode())
    assert _http("GET", url) == (200, b"x" * 1000)


def test_what_is_not_covered_says_what_is(modal_loopback):
    with pytest.raises(modal.exception.UnimplementedError, match="loopback control plane does not have"):
        modal.Sandbox.create(app=modal.App.lookup("sandboxes", create_if_missing=True))


def test_every_handler_handles_a_procedure_of_modals(modal_loopback):
    names = modal_loopback._parts.dispatcher.handled
    assert len(names) > 60
    assert names <= all_rpcs().keys()


def test_web_endpoints_are_refused(modal_loopback, image):
    app = modal.App()

    @app.function(image=image, serialized=True)
    @modal.fastapi_endpoint()
    def page():
        return "hello"

    with pytest.raises(modal.exception.UnimplementedError, match="web endpoints"), app.run():
        pass


def test_the_command_line_runs_a_script(tmp_path):
    script = tmp_path / "my_script.py"
    script.write_text(
        "import sys, modal\n"
        "app = modal.App()\n"
        "@app.function()\n"
        "def double(x):\n"
        "    return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with app.run():\n"
        "        print(double.remote(int(sys.argv[1])))\n"
        "    sys.exit(3)\n"
    )
    command = [sys.executable, "-m", "hypernodes_modal", "loopback", "--summary", "--"]
    done = subprocess.run([*command, sys.executable, str(script), "21"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "42\n")
    assert "called double: 1 input(s)" in done.stderr


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    for arguments, expected in (
        ([], "which program?"),
        (["--host", "0.0.0.0", "--", "true"], "not a loopback address"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["loopback", *arguments])
        assert caught.value.code == 2
        assert expected in capsys.readouterr().err
    command = [sys.executable, "-m", "hypernodes_modal", "loopback", "--", str(tmp_path / "missing")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "cannot run" in done.stderr


def test_the_fixture_serves_a_users_tests(pytester):
    pytester.makeconftest('pytest_plugins = ["hypernodes_modal.loopback.pytest_plugin"]')
    pytester.makepyfile(
        """
        import modal

        def test_first(modal_loopback):
            def double(x):
                return 2 * x

            app = modal.App()
            served = app.function(serialized=True)(double)
            with app.run():
                assert served.remote(1) == 2
            assert len(modal_loopback.calls) == 1

        def test_second_sees_nothing_of_the_first(modal_loopback):
            assert modal_loopback.calls == []
            assert modal_loopback.rpcs == []
        """
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
