"""What every test can count on, whichever tests ran before it."""

import service


def test_a_test_that_is_not_async_can_be_the_first_to_ask_for_the_service(request):
    # Without it, pytest refuses the async fixtures of such a test, and then every later test too.
    assert "anyio_backend" in request.fixturenames


def test_the_service_itself_has_no_peelings(settings):
    paths = service.create_app(settings).openapi()["paths"]
    assert [path for path in paths if "peelings" in path] == []
