"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv:2409.11321).

For the tiny layers of the overfitted codec, whose eigenvectors cost next to nothing. A gradient G
is turned by the eigenvectors of the running means of G G^T and G^T G, and Adam works there.
Unlike in the paper the basis is exact, not tracked by one power iteration, and a new one takes the
second moments along (as if they were independent), so that it can change often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class _Matrix:
    """State for one matrix."""

    def __init__(self, rows: int, columns: int):
        self.left, self.right = np.zeros((rows, rows)), np.zeros((columns, columns))
        self.left_basis, self.right_basis = np.eye(rows), np.eye(columns)
        self.first, self.second = np.zeros((rows, columns)), np.zeros((rows, columns))


class Soap:
    """Moves a vector whose parts, given as matrices of positions in it, are layers."""

    def __init__(
        self,
        parts: Sequence[npt.NDArray[np.intp]],
        beta1: float = 0.9,
        beta2: float = 0.9,
        beta_basis: float = 0.9,
        period: int = 4,
    ):
        """`period`: steps between new bases. Positions in no part stay where they are."""
        self.parts = parts
        self.beta1, self.beta2, self.beta_basis, self.period = beta1, beta2, beta_basis, period
        self.matrices = [_Matrix(*part.shape) for part in parts]
        self.steps = 0

    def move(self, value: npt.NDArray[np.float32], gradient: npt.NDArray, rate: float) -> None:
        """One step of about `rate` in every direction of the bases, in place."""
        self.steps += 1
        for part, matrix in zip(self.parts, self.matrices, strict=True):
            value[part] -= (rate * self._direction(matrix, gradient[part])).astype(np.float32)

    def _direction(self, m: _Matrix, gradient: npt.NDArray) -> Float64:
        g = gradient.astype(np.float64)
        m.left += (1 - self.beta_basis) * (g @ g.T - m.left)
        m.right += (1 - self.beta_basis) * (g.T @ g - m.right)
        if self.steps % self.period == 1 or self.period == 1:
            left, right = np.linalg.eigh(m.left)[1], np.linalg.eigh(m.right)[1]
            m.second = (left.T @ m.left_basis) ** 2 @ m.second @ (m.right_basis.T @ right) ** 2
            m.left_basis, m.right_basis = left, right
        m.first += (1 - self.beta1) * (g - m.first)
        turned = m.left_basis.T @ g @ m.right_basis
        m.second += (1 - self.beta2) * (turned**2 - m.second)
        mean = m.left_basis.T @ m.first @ m.right_basis / (1 - self.beta1**self.steps)
        root = np.sqrt(m.second / (1 - self.beta2**self.steps)) + 1e-12
        return m.left_basis @ (mean / root) @ m.right_basis.T
