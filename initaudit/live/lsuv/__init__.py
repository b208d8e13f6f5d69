"""LSUV: orthonormal weights, scaled layer by layer in execution order until what they make has variance one.

Source: Mishkin & Matas, "All you need is a good init", ICLR 2016, algorithm 1.
"""

from initaudit.live.lsuv.calibrating import Calibrated, calibrate

__all__ = ["Calibrated", "calibrate"]
