"""API keys, by which machines act for an account."""

from features.keys import handlers
from features.keys.models import KeyCreate, KeyCreated, KeyPublic
from kernel import (
    CredentialScheme,
    CurrentUser,
    Id,
    Page,
    Paging,
    Person,
    Reader,
    Router,
    Service,
    Session,
)

router = Router(prefix="/keys", tags=["keys"])
API_KEY = CredentialScheme.header("X-API-Key", handlers.authenticate_key)


@router.post("", status_code=201)
async def create_key(data: KeyCreate, me: Person, session: Session, service: Service) -> KeyCreated:
    """Make an API key for a machine. `key` is shown here and never again.

    Only a person can, who has signed in; a key makes no other.
    """
    return await handlers.create_key(session, me, data, service.slug)


@router.get("")
async def list_keys(me: CurrentUser, reader: Reader, paging: Paging) -> Page[KeyPublic]:
    """One's own keys, by the beginning that `create_key` has shown."""
    return await handlers.list_keys(reader, me, paging)


@router.delete("/{key_id}", status_code=204)
async def delete_key(key_id: Id, me: CurrentUser, session: Session) -> None:
    """Delete a key. It is dead at once."""
    await handlers.delete_key(session, me, key_id)
