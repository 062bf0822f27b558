"""Numbers that the latent models and their integer coders share. Without torch, for decoders."""

from __future__ import annotations

HYPER_STRIDE = 4  # latent rows and columns per hyper-latent position
HYPER_LIMIT = 127  # |z_hat|
CONTEXT_LIMIT = 127  # |context input|, in the channel's unit of 2^shift / 64 quantisation steps
CONTEXT_FRACTION_BITS = 3  # as an integer, a context input resolves 1/8 of that unit
QUALITY_STEPS = 200  # integer steps of the quality plane, an input of the hyper-decoder

# Qualities with tables of their own in a factorized prior. Between two, a scale is off by a few
# percent, which costs about a thousandth of a bit per latent.
QUALITY_CLASSES = 21


def quality_class(quality_step: int) -> int:
    """The class of a quality in 0..QUALITY_STEPS, the nearest; integers only."""
    return (quality_step * (QUALITY_CLASSES - 1) + QUALITY_STEPS // 2) // QUALITY_STEPS
