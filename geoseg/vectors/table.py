"""Table: the rows of a layer; the fields in memory, the shapes too, or made as a writer asks for them."""

from dataclasses import dataclass
from typing import Protocol

import geopandas
import numpy as np
import pandas as pd
from pyproj import CRS


class Shapes(Protocol):
    """Shapely geometries: an array of them, or what makes those that are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a layer, which need not all be in memory."""

    fields: pd.DataFrame
    """All but the shapes, by an index from 0."""
    shapes: Shapes
    """Of each row."""
    kinds: frozenset[str]
    """Types of the shapes, such as "Polygon"."""
    crs: CRS | None
    """Of the shapes."""

    @classmethod
    def of(cls, rows: "geopandas.GeoDataFrame | Table") -> "Table":
        """A frame, or what is a table already."""
        if isinstance(rows, Table):
            return rows
        fields = pd.DataFrame(rows.drop(columns=rows.geometry.name)).reset_index(drop=True)
        return cls(fields, rows.geometry.to_numpy(), frozenset(rows.geom_type.dropna()), rows.crs)

    def __len__(self) -> int:
        return len(self.shapes)


AnyTable = geopandas.GeoDataFrame | Table
"""Rows, wherever their shapes are."""
