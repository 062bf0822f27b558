"""Measuring codecs: metrics, Bjontegaard deltas, anchors, published curves, results and reports.

    from rhodec.evaluate import bd_rate, load_curve

    bd_rate(load_curve("vtm-9.1"), ([0.21, 0.38, 0.66, 1.05], [30.1, 32.4, 35.0, 37.7]))  # per cent
"""

from rhodec.evaluate.bjontegaard import (
    CurveWarning,
    bd_quality,
    bd_rate,
    bd_rate_per_picture,
)
from rhodec.evaluate.published_curves import list_curves, load_curve, published_curve
from rhodec.evaluate.quality_metrics import ms_ssim, ms_ssim_db, psnr_rgb, psnr_y, psnr_yuv

__all__ = [
    "CurveWarning",
    "bd_quality",
    "bd_rate",
    "bd_rate_per_picture",
    "list_curves",
    "load_curve",
    "ms_ssim",
    "ms_ssim_db",
    "psnr_rgb",
    "psnr_y",
    "psnr_yuv",
    "published_curve",
]
