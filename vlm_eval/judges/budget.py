"""A hard stop on money: what a call may cost at most is set aside before it is sent."""

from __future__ import annotations

import threading
from typing import Optional


class Budget:
    """`limit` in USD, None: no limit. Shared by all threads of a judge."""

    def __init__(self, limit: Optional[float], spent: float = 0.0):
        self.limit, self.spent = limit, spent
        self._aside, self._under_way = 0.0, 0
        self._settled = threading.Condition()

    def set_aside(self, most: float) -> bool:
        """Whether a call that costs `most` at most still fits; if so, it counts until settle().

        Waits for calls under way where only what is set aside for them leaves no room: most cost less than that."""
        with self._settled:
            while self.limit is not None and self.spent + self._aside + most > self.limit:
                if not self._under_way or self.spent + most > self.limit:
                    return False
                self._settled.wait()
            self._aside += most
            self._under_way += 1
            return True

    def settle(self, most: float, cost: Optional[float]) -> None:
        """What the call came to; one of unknown cost counts with the most."""
        with self._settled:
            self._under_way -= 1
            self._aside = self._aside - most if self._under_way else 0.0
            self.spent += most if cost is None else cost
            self._settled.notify_all()
