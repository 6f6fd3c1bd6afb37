"""Kernels: how inner loops are compiled that are given all their memory.

Numba counts references to every array around each call within a function, with atomic instructions: of tracing that was
four fifths of the time. A function that allocates nothing does without (`_nrt`, for numba's runtime, in all its
versions that geoseg takes); one that does allocate is refused by the compiler.
"""

from numba import njit

kernel = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
"""Compiled, for functions that allocate nothing."""
inlined = njit(cache=True, nogil=True, _nrt=False, forceinline=True)  # type: ignore[call-overload]
"""The same, and made part of what calls it."""
