"""OpenBLAS as a copy of our own, with its widest kernels: what the engine's products are measured against.

NumPy's copy is not touched, so its threads and kernels stay as they are.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from functools import lru_cache
from pathlib import Path

CORE_TYPE = "OPENBLAS_CORETYPE"
WIDE = ("SkylakeX", "Cooperlake", "SapphireRapids")  # kernels that use AVX-512


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library, loaded once, or None where scipy-openblas32 is not installed or cannot be loaded.

    Importing the package would load it with its own choice of kernels; the variable that decides them is read only
    when the library is loaded.
    """
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "lib").glob("libscipy_openblas*"))
    files = [path for path in found if path.suffix in (".so", ".dylib", ".dll")]
    if not files:
        return None
    given = os.environ.get(CORE_TYPE)
    if given is None and has_avx512():
        os.environ[CORE_TYPE] = "SkylakeX"
    try:
        blas = ctypes.CDLL(str(files[0]))
    except OSError:
        return None
    finally:
        if given is None:
            os.environ.pop(CORE_TYPE, None)
    blas.scipy_openblas_set_num_threads(1)
    return blas


def has_avx512() -> bool:
    """Whether the processor has the AVX-512 instructions that OpenBLAS's widest kernels use."""
    import numpy as np

    features = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
    return all(features.get(name, False) for name in ("AVX512F", "AVX512CD", "AVX512_SKX"))


def product_address() -> int:
    """The address of cblas_sgemm.

    Raises:
        ImportError: scipy-openblas32 is not installed, or cannot be loaded here.
    """
    blas = library()
    if blas is None:
        raise ImportError("scipy-openblas32 cannot be loaded")
    return int(ctypes.cast(blas.scipy_cblas_sgemm, ctypes.c_void_p).value or 0)
