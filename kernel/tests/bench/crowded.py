"""The service among other slices: as many as `APP_CROWD` says, all mounted before its own.

Before, because that is the worst place to be: a router asks them in their order.
"""

import os

from kernel.http.dependencies import Id, Reader, Search, Session
from kernel.http.router import Router
from kernel.identity.callers import CurrentUser
from kernel.settings import load_settings
from kernel.tests.peelings.models import PeelingCreate, PeelingUpdate
from service import create_app


def make_router(name: str) -> Router:
    """A slice's routes, like those of `items`."""
    router = Router(prefix=f"/{name}", tags=[name])

    @router.post("", status_code=201)
    async def create(data: PeelingCreate, me: CurrentUser, session: Session) -> PeelingCreate:
        raise NotImplementedError

    @router.get("")
    async def list_all(me: CurrentUser, reader: Reader, q: Search = None) -> PeelingCreate:
        raise NotImplementedError

    @router.get("/{row_id}")
    async def get(row_id: Id, me: CurrentUser, reader: Reader) -> PeelingCreate:
        raise NotImplementedError

    @router.patch("/{row_id}")
    async def update(
        row_id: Id, data: PeelingUpdate, me: CurrentUser, session: Session
    ) -> PeelingCreate:
        raise NotImplementedError

    @router.delete("/{row_id}", status_code=204)
    async def delete(row_id: Id, me: CurrentUser, session: Session) -> None:
        raise NotImplementedError

    return router


app = create_app(load_settings())
own = len(app.router.routes)
for number in range(int(os.environ["APP_CROWD"])):
    app.include_router(make_router(f"dishes{number}"))
app.router.routes[:] = [*app.router.routes[own:], *app.router.routes[:own]]
