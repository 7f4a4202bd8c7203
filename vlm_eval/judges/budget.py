"""A hard stop on money: what a call may cost at most is set aside before it is sent."""

from __future__ import annotations

import threading
from typing import Optional


class Budget:
    """`limit` in USD, None: no limit. Shared by all threads of a judge."""

    def __init__(self, limit: Optional[float], spent: float = 0.0):
        self.limit, self.spent = limit, spent
        self._aside = 0.0
        self._lock = threading.Lock()

    def set_aside(self, most: float) -> bool:
        """Whether a call that costs `most` at most still fits; if so, it counts until settle()."""
        with self._lock:
            if self.limit is not None and self.spent + self._aside + most > self.limit:
                return False
            self._aside += most
            return True

    def settle(self, most: float, cost: Optional[float]) -> None:
        """What the call came to; one of unknown cost counts with the most."""
        with self._lock:
            self._aside -= most
            self.spent += most if cost is None else cost
