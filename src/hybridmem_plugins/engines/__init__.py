"""Engines that people already run, under the same retrieval: a memory beyond one machine.

An engine's store offers what `MemoryStore` does for searching and writing, so that `HybridMemory` takes either; which
one is decided by the path: a folder, or an address such as `postgresql://user@host/database`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybridmem_plugins.engines.address import check_folder, is_address, without_secrets

if TYPE_CHECKING:
    from hybridmem_plugins.engines.postgres.store import PostgresStore

__all__ = ["check_folder", "is_address", "open_engine", "without_secrets"]


def open_engine(address: str, **options: Any) -> PostgresStore:
    """Open the store at an address.

    Args:
        address: For example `postgresql://user@host/database?schema=memory&timeout=10`.
        options: As `PostgresStore` takes them.

    Raises:
        ValueError: No engine has such addresses.
        EngineError: The engine cannot be reached, or refuses.
        ImportError: The engine's client is not installed; the message names the extra.
    """
    if address.startswith(("postgresql://", "postgres://")):
        from hybridmem_plugins.engines.postgres.store import PostgresStore

        return PostgresStore(address, **options)
    msg = f"no engine is known for {without_secrets(address)}; known are postgresql:// addresses, and folders"
    raise ValueError(msg)
