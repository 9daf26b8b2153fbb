"""bfloat16 and what is known of float types; without bfloat16 where only NumPy is installed: the wheel's smoke test."""

import numpy as np

try:
    import ml_dtypes
except ModuleNotFoundError:
    finfo, HALVES = np.finfo, (np.dtype(np.float16),)
else:
    finfo, HALVES = ml_dtypes.finfo, (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
