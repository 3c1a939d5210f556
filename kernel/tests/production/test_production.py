"""All walks, over a service that is traced and stands behind a prefix; and its short ways."""

import pytest

from kernel.testing.authorization import *  # noqa: F403
from kernel.testing.boundary import *  # noqa: F403
from kernel.testing.contract import *  # noqa: F403
from kernel.testing.injections import *  # noqa: F403
from kernel.testing.operations import operations
from kernel.testing.pages import *  # noqa: F403
from kernel.testing.reads import *  # noqa: F403
from kernel.testing.round_trips import *  # noqa: F403
from kernel.testing.switches import needs
from kernel.testing.versions import *  # noqa: F403
from kernel.testing.walking import walk_of
from kernel.tests.production.conftest import PROVIDER

pytestmark = pytest.mark.slow


@needs("plan")
async def test_the_short_way_is_taken(app, sampler, monkeypatch):
    """FastAPI's own router is asked by none of the operations that have a short way."""
    asked = []
    long_way = app.router.middleware_stack._long_way

    async def note(scope, receive, send):
        if scope["path"] != "/api/auth/token":  # a form, by which samples sign in
            asked.append(scope["path"])
        await long_way(scope, receive, send)

    monkeypatch.setattr(app.router.middleware_stack, "_long_way", note)
    paths = {}
    for operation in operations(app):
        if not (operation.is_form or isinstance(operation.hook("SKIPS"), str)):
            await sampler.call(operation)
            paths[operation.name], asked[:] = [*asked], []
    assert len(paths) > 20
    assert {name for name in paths if paths[name]} <= {"export_peelings", "stream_peeled_article"}
    routes = [span.attributes.get("http.route") for span in PROVIDER.tracer.spans]
    assert "/api/users/{user_id}" in routes


def test_a_walk_that_a_folder_gives_anew_each_time_has_one_app(request):
    node = request.node
    assert node.ihook.pytest_walk() is not node.ihook.pytest_walk()
    assert walk_of(node).app is walk_of(node).app
