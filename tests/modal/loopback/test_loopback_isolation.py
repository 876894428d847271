"""What a container sees: what its image holds, and nothing of the caller's."""

from __future__ import annotations

import sys

import modal
import modal.exception
import pytest

OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def importable(*names):
    import importlib.util

    return [name for name in names if importlib.util.find_spec(name) is not None]


def test_only_what_the_image_installs_is_importable(serve, image):
    assert serve(importable).remote("modal", "hypothesis", "pytest", "hypernodes", "cloudpickle") == ["modal"]
    with_cloudpickle = serve(importable, image=image.uv_pip_install("cloudpickle"))
    assert with_cloudpickle.remote("cloudpickle", "hypothesis") == ["cloudpickle"]


def test_requirements_bring_what_they_need(serve, image, tmp_path):
    listed = tmp_path / "requirements.txt"
    listed.write_text("# for the test\nhypothesis>=6  # and what it needs\n")
    served = serve(importable, image=image.pip_install_from_requirements(str(listed)))
    assert served.remote("hypothesis", "sortedcontainers", "pytest") == ["hypothesis", "sortedcontainers"]


def test_the_callers_variables_and_files_are_not_there(serve, monkeypatch, tmp_path):
    def look(path):
        import os

        files = [entry.name for entry in os.scandir("/root") if entry.is_file()]
        return os.environ.get("CALLERS_SECRET"), os.path.exists(path), os.getcwd(), files

    monkeypatch.setenv("CALLERS_SECRET", "hunter2")
    (tmp_path / "data.txt").write_text("here")
    assert serve(look).remote(str(tmp_path / "data.txt")) == (None, False, "/root", [])


def test_environment_working_directory_and_local_files(serve, image, tmp_path):
    def look():
        import os
        from pathlib import Path

        return (
            os.environ["GREETING"],
            os.environ["BOTH"],
            os.getcwd(),
            Path("/srv/data/a.txt").read_text(),
            Path("copied.txt").read_text(),
        )

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("mounted")
    (tmp_path / "b.txt").write_text("copied")
    built = (
        image.env({"GREETING": 'it\'s a "test" $HOME', "BOTH": "image"})
        .workdir("/work/dir")
        .add_local_file(tmp_path / "b.txt", "/work/dir/copied.txt", copy=True)
        .add_local_dir(tmp_path / "folder", "/srv/data")
    )
    served = serve(look, image=built, secrets=[modal.Secret.from_dict({"BOTH": "secret"})])
    assert served.remote() == ('it\'s a "test" $HOME', "secret", "/work/dir", "mounted", "copied")


def test_a_function_of_a_project_runs_with_the_modules_that_come_along(modal_loopback, project):
    files = {
        "job.py": """
            import modal
            from helpers.text import shout

            app = modal.App()
            image = modal.Image.debian_slim()

            @app.function(image=image.add_local_python_source("helpers"))
            def with_helpers(text):
                return shout(text)
        """,
        "helpers/__init__.py": "",
        "helpers/text.py": "def shout(text):\n    return text.upper()\n",
    }
    job = project(files, "job")
    with job.app.run():
        assert job.with_helpers.remote("aleph") == "ALEPH"


def test_a_forgotten_module_is_missing(modal_loopback, project):
    files = {
        "forgetful_job.py": """
            import modal
            import forgotten

            app = modal.App(include_source=False)

            @app.function(image=modal.Image.debian_slim().add_local_python_source("forgetful_job"))
            def use():
                return forgotten.VALUE
        """,
        "forgotten.py": "VALUE = 1\n",
    }
    job = project(files, "forgetful_job")
    with job.app.run(), pytest.raises(ModuleNotFoundError, match="forgotten"):
        job.use.remote()


def test_a_package_that_cannot_be_had_fails_the_build(serve, image):
    with pytest.raises(modal.exception.ImageBuildError, match=r"no-such-package-at-all.*not installed here"):
        serve(importable, image=image.pip_install("no-such-package-at-all", extra_options="--no-index"))


def test_a_version_that_is_not_here_is_not_taken_for_another(serve, image):
    with pytest.raises(modal.exception.ImageBuildError, match=r"cloudpickle==0\.1"):
        serve(importable, image=image.pip_install("cloudpickle==0.1", extra_options="--no-index"))


def test_an_editable_install_is_refused_with_what_to_do_instead(serve, image):
    with pytest.raises(modal.exception.ImageBuildError, match="add_local_python_source"):
        serve(importable, image=image.pip_install("hypernodes-core", extra_options="--no-index"))


def test_an_interpreter_that_is_not_here_fails_the_build(serve, monkeypatch):
    from hypernodes_modal.loopback import environments

    monkeypatch.setattr(environments, "find_interpreter", lambda version: None)
    never_built = modal.Image.debian_slim(python_version=OWN_PYTHON).pip_install("sortedcontainers", "cloudpickle")
    with pytest.raises(modal.exception.ImageBuildError, match=f"Python {OWN_PYTHON}.*no such interpreter"):
        serve(importable, image=never_built)


def test_what_is_not_done_is_said(modal_loopback, serve, image, caplog):
    served = serve(importable, image=image.apt_install("ffmpeg").run_commands("make all"), gpu="A100")
    assert served.remote("sys") == ["sys"]
    for expected in ("apt-get install -y ffmpeg", "make all", "GPU (A100)"):
        assert any(expected in notice for notice in modal_loopback.notices)
        assert expected in caplog.text
    assert not any("gcc" in notice for notice in modal_loopback.notices)  # Modal's own base layer, not the user's


def test_what_is_ignored_is_said(modal_loopback, serve):
    served = serve(importable, enable_memory_snapshot=True, cpu=2.0, memory=1024, region="us-east", cloud="aws")
    assert served.remote("sys") == ["sys"]
    assert any("memory snapshots" in notice for notice in modal_loopback.notices)


def test_a_list_of_gpus_is_accepted(serve):
    assert serve(importable, gpu=["H100", "A100"]).remote("sys") == ["sys"]


def test_a_build_step_that_runs_a_function_is_refused(modal_loopback, project):
    job = project(
        {
            "built_job.py": """
                import modal

                app = modal.App()

                def step():
                    pass

                @app.function(image=modal.Image.debian_slim().run_function(step))
                def use():
                    pass
            """
        },
        "built_job",
    )
    with pytest.raises(modal.exception.UnimplementedError, match="run_function"), job.app.run():
        pass
