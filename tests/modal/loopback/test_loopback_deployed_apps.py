"""Deployed apps: they outlive their client, and are found by name."""

from __future__ import annotations

import modal
import modal.exception
import pytest


def deploy(image, answer, name="answers"):
    app = modal.App(name)

    @app.function(image=image, serialized=True, name="ask")
    def ask():
        return answer

    @app.cls(image=image, serialized=True)
    class Oracle:
        @modal.method()
        def ask(self):
            return answer

    app.deploy()
    return app


def test_a_deployed_function_and_class_are_found_by_name(modal_loopback, image):
    deploy(image, 42)
    assert modal.Function.from_name("answers", "ask").remote() == 42
    assert modal.Cls.from_name("answers", "Oracle")().ask.remote() == 42


def test_deploying_again_replaces_what_is_called(modal_loopback, image):
    deploy(image, "old")
    found = modal.Function.from_name("answers", "ask")
    assert found.remote() == "old"
    deploy(image, "new")
    assert modal.Function.from_name("answers", "ask").remote() == "new"
    assert found.remote() == "new"


def test_what_is_not_deployed_is_named_with_what_is(modal_loopback, image):
    deploy(image, 1)
    with pytest.raises(modal.exception.NotFoundError, match="answers"):
        modal.Function.from_name("questions", "ask").hydrate()
    with pytest.raises(modal.exception.NotFoundError, match="ask"):
        modal.Function.from_name("answers", "tell").hydrate()


def test_an_app_is_looked_up_and_made_if_missing(modal_loopback):
    made = modal.App.lookup("fresh", create_if_missing=True)
    assert modal.App.lookup("fresh").app_id == made.app_id
