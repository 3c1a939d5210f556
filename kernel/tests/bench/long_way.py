"""The service without its short ways: what they are worth."""

from kernel.fast.switches import OFF
from service import app

__all__ = ["app"]

OFF.update(("plan", "statements", "rows"))
