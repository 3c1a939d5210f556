"""Everything that a team changes without touching `kernel/`."""

from collections.abc import Callable
from itertools import chain

from kernel.tests.extensions import errors, identity, service, shared
from kernel.tests.extensions.copies import Copy

CHANGES: dict[str, list[Callable[[Copy], None]]] = {
    "service": [
        service.rename,
        service.add_settings,
        service.add_cors,
        service.write_readme,
        service.replace_items,
    ],
    "identity": [
        identity.add_role,
        identity.add_credential,
        identity.add_viewer,
        identity.add_account_column,
        identity.move_sign_in,
    ],
    "errors": [errors.add_error, errors.add_error_form],
    "shared": [shared.share],
}


def change_everything(copy: Copy) -> None:
    """Make all of these changes, and accept the contract."""
    for change in chain.from_iterable(CHANGES.values()):
        change(copy)
    copy.works("features", "contract")
