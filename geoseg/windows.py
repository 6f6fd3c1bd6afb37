"""Windows, the cell lattice and the plan: integers only, no pixels, no georeference."""

from collections.abc import Iterator
from dataclasses import dataclass

from geoseg.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of pixels. It may stick out of the scene (negative `row` or `col`); it is never empty."""

    row: int
    """Row of the upper left pixel."""
    col: int
    """Column of the upper left pixel."""
    height: int
    """Rows, at least 1."""
    width: int
    """Columns, at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(f"window {self.width}x{self.height} is empty. Expected at least one pixel.")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def stop_row(self) -> int:
        """One past the last row."""
        return self.row + self.height

    @property
    def stop_col(self) -> int:
        """One past the last column."""
        return self.col + self.width

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def expand(self, margin: int) -> "Window":
        """The window with `margin` pixels more on each side."""
        return Window(
            row=self.row - margin,
            col=self.col - margin,
            height=self.height + 2 * margin,
            width=self.width + 2 * margin,
        )

    def intersection(self, other: "Window") -> "Window | None":
        """The pixels in both windows, or None when there are none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.stop_row, other.stop_row) - row
        width = min(self.stop_col, other.stop_col) - col
        return Window(row=row, col=col, height=height, width=width) if height > 0 and width > 0 else None

    def slices(self, origin: "Window | None" = None) -> tuple[slice, slice]:
        """Row and column slices of this window in an array that begins where `origin` does (default: the scene)."""
        row, col = (origin.row, origin.col) if origin else (0, 0)
        return slice(self.row - row, self.stop_row - row), slice(self.col - col, self.stop_col - col)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a scene is cut: disjoint cells on a fixed lattice, each read as a tile with a halo of context around it.

    The plan follows from the shape alone, never from pixel content. Tile origins are multiples of the model's stride
    away from the scene's origin, so that every tile sees the same pooling phase as one pass over the whole scene.
    """

    shape: tuple[int, int]
    """(height, width) of the scene."""
    cell_side: int
    """Side of a cell, a multiple of `stride`. The last row and column of cells are clipped at the scene's edge."""
    halo: int = 0
    """Context read on each side of a cell, a multiple of `stride`."""
    stride: int = 1
    """The factor the model's deepest level is downsampled by; tile sides are multiples of it."""

    def __post_init__(self) -> None:
        height, width = self.shape
        if height < 1 or width < 1:
            raise UsageError(f"scene of {width}x{height} pixels has nothing to plan. Expected at least one pixel.")
        if self.stride < 1 or self.cell_side < 1 or self.halo < 0:
            raise UsageError(
                f"cell side {self.cell_side}, halo {self.halo}, stride {self.stride}: expected cell side and stride "
                "of at least 1 and a halo of at least 0."
            )
        for name, value in (("cell side", self.cell_side), ("halo", self.halo)):
            if value % self.stride:
                raise UsageError(
                    f"{name}={value} is not a multiple of the model's stride {self.stride}. "
                    f"Try {-(-value // self.stride) * self.stride}."
                )

    @property
    def tile_size(self) -> int:
        """Side of a full tile: what the network sees at once."""
        return self.cell_side + 2 * self.halo

    @property
    def overlap(self) -> int:
        """Pixels that two neighbouring tiles share."""
        return 2 * self.halo

    @property
    def rows(self) -> int:
        """Rows of cells."""
        return -(-self.shape[0] // self.cell_side)

    @property
    def cols(self) -> int:
        """Columns of cells."""
        return -(-self.shape[1] // self.cell_side)

    def __len__(self) -> int:
        return self.rows * self.cols

    def __iter__(self) -> Iterator[Window]:
        """Cells in row-major order."""
        return (self.cell(index) for index in range(len(self)))

    def cell(self, index: int) -> Window:
        """The pixels cell `index` answers for, clipped at the scene's edge."""
        if not 0 <= index < len(self):
            raise IndexError(f"cell {index} of {len(self)}")
        row, col = (self.cell_side * i for i in divmod(index, self.cols))
        return Window(
            row=row,
            col=col,
            height=min(self.cell_side, self.shape[0] - row),
            width=min(self.cell_side, self.shape[1] - col),
        )

    def tile(self, cell: Window) -> Window:
        """What the network sees for `cell`: its pixels, rounded up to the stride, and the halo; it may stick out."""
        return Window(
            row=cell.row - self.halo,
            col=cell.col - self.halo,
            height=-(-cell.height // self.stride) * self.stride + 2 * self.halo,
            width=-(-cell.width // self.stride) * self.stride + 2 * self.halo,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaperedPlan(Plan):
    """For networks of unbounded context: tiles on a lattice of their own, blended where they overlap.

    No tile shows such a network what the whole scene would, so neighbouring tiles disagree and are faded into each
    other. A cell takes every tile that touches it, those of its neighbours too, so that it still depends on nothing
    else; it spans several steps of the lattice, or most tiles would be computed four times.
    """

    step: int
    """Between the origins of neighbouring tiles; `cell_side` is a multiple of it, and it of `stride`."""
    fade: int
    """Pixels that two neighbouring tiles share, at most `step` and a multiple of `stride`."""

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        if self.step < 1 or not 0 <= self.fade <= self.step or self.halo:
            raise UsageError(
                f"step {self.step}, fade {self.fade}, halo {self.halo}: expected a step of at least 1, a fade of at "
                "most the step, and no halo."
            )
        for name, value, unit in (
            ("step", self.step, self.stride),
            ("fade", self.fade, self.stride),
            ("cell side", self.cell_side, self.step),
        ):
            if value % unit:
                raise UsageError(f"{name}={value} is not a multiple of {unit}. Try {-(-value // unit) * unit}.")

    @property
    def tile_size(self) -> int:
        """Side of every tile."""
        return self.step + self.fade

    @property
    def overlap(self) -> int:
        """Pixels that two neighbouring tiles share."""
        return self.fade

    def tiles(self, cell: Window) -> list[Window]:
        """Every tile that touches `cell`, in row-major order, all of one size; they may stick out of the scene.

        Tile k begins at k * step - fade, so that no pixel of the scene lies where only one half of a fade is.
        """
        rows, cols = (
            range(start // self.step, (stop - 1 + self.fade) // self.step + 1)
            for start, stop in ((cell.row, cell.stop_row), (cell.col, cell.stop_col))
        )
        side = self.tile_size
        return [
            Window(row=row * self.step - self.fade, col=col * self.step - self.fade, height=side, width=side)
            for row in rows
            for col in cols
        ]
