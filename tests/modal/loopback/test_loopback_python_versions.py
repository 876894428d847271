"""Images with other versions of Python than the caller's, for which packages are fetched."""

from __future__ import annotations

import sys

import modal
import pytest

from hypernodes_modal.loopback.interpreters import OWN_VERSION, find_interpreter

OTHERS = [version for version in ("3.11", "3.12", "3.13") if version != OWN_VERSION and find_interpreter(version)]


@pytest.mark.network
@pytest.mark.parametrize("version", OTHERS)
def test_a_container_runs_the_python_its_image_asks_for(modal_loopback, project, version):
    job = project(
        {
            "other_job.py": f"""
                import sys

                import modal

                app = modal.App()

                @app.function(image=modal.Image.debian_slim(python_version="{version}").pip_install("sortedcontainers"))
                def look():
                    import sortedcontainers

                    return sys.version_info[:2], sortedcontainers.__name__
            """
        },
        "other_job",
    )
    with job.app.run():
        found, package = job.look.remote()
    assert found == tuple(map(int, version.split("."))) != sys.version_info[:2]
    assert package == "sortedcontainers"


@pytest.mark.network
def test_a_package_that_is_not_here_is_fetched(serve, image):
    def use():
        import roman

        return roman.toRoman(7)

    assert serve(use, image=image.pip_install("roman==5.0")).remote() == "VII"


@pytest.mark.network
def test_a_package_that_nobody_has_fails_the_build_with_what_pip_said(serve, image):
    def use():
        pass

    with pytest.raises(modal.exception.ImageBuildError, match=r"(?s)pip could not install.*no-such-package-hypernodes"):
        serve(use, image=image.pip_install("no-such-package-hypernodes"))
