"""Which token it is: its row in the store now, and the one that somebody is logged in to."""

from __future__ import annotations

from p11tpm.error import GoneError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from p11tpm.store import Store, TokenRow


class Identity:
    """One token of a store. Another program may delete it, or put another one in its place, under the same `id`."""

    def __init__(self, store: Store, row: TokenRow) -> None:
        self.store = store
        self.id = row.id
        self.seen = row  # the token as it was when somebody asked last
        self.whose: bytes | None = None  # the identifier (TokenRow.uuid) as it was at the login; None without one

    @property
    def row(self) -> TokenRow:
        """The token as it is in the store now; CKR_TOKEN_NOT_PRESENT if another program deleted it."""
        row = self.store.token(self.id)
        if row is None:
            raise GoneError(deleted=True)
        self.seen = row
        return row

    def row_of_login(self) -> TokenRow:
        """Return the token as it is in the store now; GoneError if it is not the one that somebody is logged in to."""
        row = self.row
        if self.whose not in {None, row.uuid}:
            raise GoneError(deleted=False)
        return row
