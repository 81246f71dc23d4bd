"""The online store: where a stream keeps the tiles of its aggregates, and serving reads them."""

from skewless.transforms.online.open import open_store
from skewless.transforms.online.store import OnlineStore, Reader, Tile, Transaction, Wanted

__all__ = ["OnlineStore", "Reader", "Tile", "Transaction", "Wanted", "open_store"]
