"""DeepSpeed Inference: small batches wait for memory, not for arithmetic.

Paper: Aminabadi et al., "DeepSpeed Inference: Enabling Efficient Inference of Transformer Models at
Unprecedented Scale", SC 2022, arXiv 2207.00032.
"""

from dataclasses import dataclass

BYTES_PER_VALUE = 2  # of a weight and an activation: bfloat16


@dataclass(frozen=True)
class Product:
    """(batch x k) times (k x n): what it computes and what it must move at least once."""

    batch: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        """Floating-point operations: a multiplication and an addition for each weight and row."""
        return 2 * self.batch * self.k * self.n

    @property
    def bytes(self) -> int:
        """The weights, the rows that come in and those that go out."""
        return BYTES_PER_VALUE * (self.k * self.n + self.batch * (self.k + self.n))

    @property
    def intensity(self) -> float:
        """FLOP per byte; close to 2 * batch / bytes per value while the weights dominate."""
        return self.flop / self.bytes


def roofline_s(flop: float, bytes_moved: float, flop_per_s: float, bytes_per_s: float) -> float:
    """Seconds that the two limits allow: the slower of computing and moving."""
    return max(flop / flop_per_s, bytes_moved / bytes_per_s)


def knee_batch(flop_per_s: float, bytes_per_s: float) -> float:
    """Batch at which a product stops waiting for its weights: intensity = ratio of both limits."""
    return flop_per_s / bytes_per_s * BYTES_PER_VALUE / 2


def chain_bytes(values: int, operations: int, fused: bool, bytes_per_value: int) -> tuple[int, int]:
    """Bytes that a chain of elementwise operations reads and writes (section III: Deep-Fusion).

    Apart, each operation reads its input and writes its output; fused, the chain reads once and
    writes once. Either way the residual is read beside it.
    """
    passes = 1 if fused else operations
    return (passes + 1) * values * bytes_per_value, passes * values * bytes_per_value
