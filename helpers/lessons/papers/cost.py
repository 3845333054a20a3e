"""What a million tokens cost: the arithmetic behind the industry reports of the reading list."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CostInputs:
    """One machine. Prices are the student's own; nothing here is a quote.

    `price_per_hour` is all that is paid (machine, storage, network, people), `tokens_per_s` what
    the machine generates when it is full, `utilisation` the share of the paid hours in which it is
    (0 to 1). More machines change no price per token: both grow together.
    """

    price_per_hour: float
    tokens_per_s: float
    utilisation: float = 0.5

    def __post_init__(self):
        if self.price_per_hour <= 0:
            raise ValueError("price_per_hour must be positive")
        if self.tokens_per_s <= 0 or not 0 < self.utilisation <= 1:
            raise ValueError("tokens_per_s must be positive, utilisation in (0, 1]")

    @property
    def tokens_per_hour(self) -> float:
        """Tokens generated in a paid hour."""
        return self.tokens_per_s * 3600 * self.utilisation


def cost_per_million(inputs: CostInputs) -> float:
    """Money per million generated tokens: hourly price / tokens generated in a paid hour."""
    return inputs.price_per_hour / inputs.tokens_per_hour * 1e6
