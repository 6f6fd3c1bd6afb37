"""Which windows of a scene become tiles."""

from collections.abc import Iterator

from geoseg.errors import UsageError
from geoseg.windows import Window


def tile_windows(shape: tuple[int, int], tile_size: int, overlap: int = 0) -> Iterator[Window]:
    """Square windows of one size that cover a scene, in row-major order.

    They lie `tile_size - overlap` apart. The last row and column are shifted inwards to end with the scene, and so
    share more with their neighbours. Along a side shorter than a tile there is one window, which sticks out.

    Args:
        shape: (height, width) of the scene.
        tile_size: Side of a window in pixels, at least 1.
        overlap: Pixels that neighbouring windows share, from 0 to `tile_size` - 1.

    Raises:
        UsageError: If `overlap` leaves no step between two windows.
    """
    if not 0 <= overlap < tile_size:
        raise UsageError(f"overlap={overlap} does not fit tiles of {tile_size} pixels. Expected 0 to {tile_size - 1}.")
    rows, cols = (_starts(length, tile_size, tile_size - overlap) for length in shape)
    return (Window(row=row, col=col, height=tile_size, width=tile_size) for row in rows for col in cols)


def count_windows(shape: tuple[int, int], tile_size: int, overlap: int = 0) -> int:
    """How many windows `tile_windows` yields."""
    rows, cols = (len(_starts(length, tile_size, tile_size - overlap)) for length in shape)
    return rows * cols


def _starts(length: int, size: int, step: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, step), last]
