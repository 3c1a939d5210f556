"""The worker of jobs and its gauges run between the start and the end of a service.

They do not run in the app's own lifespan: a slice's lifespan begins after that and ends before it,
so a job would miss what a slice has put into the resources.
"""

from contextlib import AsyncExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel.data.resources import HasState
from kernel.http.job_gauges import counted
from kernel.jobs.worker import working


async def serve_lifespan(
    app: ASGIApp, service: HasState, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run the service's jobs from the end of its start to the beginning of its end."""
    async with AsyncExitStack() as stack:

        async def receive_or_stop() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await stack.aclose()
            return message

        async def send_and_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                await stack.enter_async_context(counted(service))
                await stack.enter_async_context(working(service))
            await send(message)

        await app(scope, receive_or_stop, send_and_start)
