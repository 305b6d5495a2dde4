"""What was measured."""

from __future__ import annotations

import statistics

from program import BenchError


class Samples:
    """Values by figure and product, of several rounds each, in which the products took turns."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, figure: str, product: str, value: float) -> None:
        self._values.setdefault((figure, product), []).append(value)

    def has(self, figure: str, product: str) -> bool:
        return (figure, product) in self._values

    def low(self, figure: str, product: str) -> float:
        """What a tenth of the rounds did not exceed: what other programs on the machine add is only ever more."""
        values = self._values.get((figure, product))
        if not values:
            raise BenchError(f"{product} failed at: {figure}")
        return statistics.quantiles(values, n=10, method="inclusive")[0] if len(values) > 1 else values[0]

    def least(self, figure: str, product: str) -> float:
        """The smallest value, for what takes so long that other programs disturb most of the rounds."""
        return min(self._values[figure, product])

    def most(self, figure: str, product: str) -> float:
        """The largest value, for what must never happen in any round."""
        return max(self._values[figure, product])

    def ratio(self, figure: str, product: str, other: str) -> float:
        """How many times what `other` takes."""
        return self.low(figure, product) / self.low(figure, other)
