"""Where the kernel keeps what it knows of a request, in its ASGI scope.

Names of its own: "session", say, is where Starlette's SessionMiddleware keeps its.
"""

HEADER_NAMES = "kernel.header_names"
SESSION = "kernel.session"
PRINCIPAL = "kernel.principal"
ARGUMENTS = "kernel.arguments"
