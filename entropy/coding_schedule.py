"""Which latents are coded in which step of a parallel context model.

The four positions of every 2x2 cell are numbered in raster order; the channels are split into equal
groups. `order[group][position]` is the step that codes that group there. Elements of one step are
coded in parallel and see all elements of the steps before.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodingSchedule:
    """Coding order of channel groups and cell positions: `order[group][position] -> step`."""

    order: tuple[tuple[int, int, int, int], ...]

    @property
    def groups(self) -> int:
        return len(self.order)

    @property
    def steps(self) -> int:
        return 1 + max(max(row) for row in self.order)

    def members(self, step: int) -> list[tuple[int, int]]:
        """(group, position) pairs coded in `step`, in the order of the stream."""
        return [(g, p) for p in range(4) for g in range(self.groups) if self.order[g][p] == step]


SCHEDULES = {
    # No context: the hyperprior alone (Balle et al. 2018; Minnen et al. 2018).
    "single": CodingSchedule(((0, 0, 0, 0),)),
    # Two passes (He et al., CVPR 2021).
    "checkerboard": CodingSchedule(((0, 1, 1, 0),)),
    # Four passes; each codes a quarter of the channels at every position (DCVC-DC, CVPR 2023).
    "quad": CodingSchedule(((0, 2, 3, 1), (1, 3, 2, 0), (2, 0, 1, 3), (3, 1, 0, 2))),
}
