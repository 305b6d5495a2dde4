"""The store: SQLite on disk, and session objects in memory."""

from __future__ import annotations

from p11tpm.store.rows import Record, TokenRow
from p11tpm.store.store import Store

__all__ = ["Record", "Store", "TokenRow"]
