"""Pieces over arrays in memory, for the tests of the cache, in this process and in others."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from affine import Affine

from geoseg.grid import Grid
from geoseg.training.pieces import Decoded, Piece


def make_piece(data, target, *, name="a", valid=None, further=None, seen=None, **fields) -> Piece:
    """A piece of these arrays; the strips that are read are noted in `seen`."""
    valid = np.ones(target.shape, bool) if valid is None else valid
    further = further or {}

    def read(window):
        if seen is not None:
            seen.append((name, window))
        rows, cols = window.slices()
        return Decoded(
            data[:, rows, cols],
            valid[rows, cols],
            target[rows, cols],
            {head: plane[:, rows, cols] for head, plane in further.items()},
        )

    return Piece(
        name=f"{name}.tif",
        source=fields.pop("source", "some"),
        split="train",
        grid=Grid(target.shape, Affine.identity(), None),
        bands=tuple(f"band {index}" for index in range(len(data))),
        dtype=data.dtype,
        known=fields.pop("known", (0, 1)),
        read=read,
        files=fields.pop("files", ()),
        recipe=fields.pop("recipe", {"name": name}),
        **fields,
    )


def noise_piece(number=0, side=40, **fields) -> Piece:
    """A piece of noise that its number decides."""
    rng = np.random.default_rng(number)
    data = rng.integers(0, 255, (3, side, side), dtype=np.uint8)
    return make_piece(data, rng.integers(0, 2, (side, side), dtype=np.uint8), name=f"noise {number}", **fields)


def main() -> None:
    """`python -m tests.pieces FOLDER NUMBER LIMIT SECONDS`: decode in a second, say so, keep the pixels for a while."""
    from geoseg.training.cache import decode

    folder, number, limit, seconds = Path(sys.argv[1]), *map(int, sys.argv[2:4]), float(sys.argv[4])
    strips = 0
    piece = noise_piece(number, source=f"source {number}")

    def slowly(window):
        nonlocal strips
        if window.height > 1:
            strips += 1
            print("decoding", flush=True)
            time.sleep(1)
        return piece.read(window)

    (ground,) = decode([replace(piece, read=slowly)], folder, limit)
    print(strips, int(ground.data.astype(np.int64).sum()), flush=True)
    time.sleep(seconds)
    print(int(ground.data.astype(np.int64).sum()), flush=True)


if __name__ == "__main__":
    main()
