"""The kernel's public names, all that slices import: `from kernel import Router, Session`.

The names are in `__init__.pyi`, for type checkers as well as for this module: each is imported when
it is first used, so that a command which needs only the settings imports nothing else (PEP 562).
`docs/guide.md` says what each of them is.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
