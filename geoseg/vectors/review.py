"""Review: what a prediction is least certain of, as a layer in which a person writes verdicts to train on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS

from geoseg.errors import UsageError
from geoseg.pixels import NODATA, PROBABILITY_SCALE
from geoseg.targets import LabelledArea
from geoseg.vectors.metric import Metric
from geoseg.vectors.planes import Planes
from geoseg.vectors.table import AnyTable, Table
from geoseg.windows import Window

_CELL_M = 25
"""Side of a cell: a house and its garden, judged at a glance."""
_LEAST_CELL = 8
"""Pixels along a cell, however wide they are."""
_NO_GSD_CELL = 64
"""Pixels along a cell where nothing says how wide they are."""
_VALID = 0.5
"""Share of a whole cell that has data, at least."""
_COVERED = 0.5
"""Share of a cell from which on listed features cover it: it would be judged twice."""
_NAME = "review"
_FIELDS = ("id", "kind", "layer", "feature_id", "class", "name", "prob", "prob_min10", "prob_edge", "verdict")


def check_verdicts(path: Path) -> None:
    """Refuse to replace what a person wrote.

    Raises:
        UsageError: If the file has a layer `review` with verdicts in it.
    """
    try:
        layers = pyogrio.list_layers(path)[:, 0] if path.is_file() else ()
        if _NAME not in layers:
            return
        verdicts = pyogrio.read_dataframe(path, layer=_NAME, columns=["verdict"], read_geometry=False)
    except (DataSourceError, DataLayerError, ValueError):  # whatever it is, it is no review
        return
    written = int((verdicts["verdict"].fillna("").str.strip() != "").sum()) if "verdict" in verdicts else 0
    if written:
        raise UsageError(
            f"{path} holds {written} verdicts in its layer {_NAME!r}, which would be lost. Expected a file without. "
            "Write to another one, or move it away."
        )


def least_certain(
    layers: Mapping[str, AnyTable],
    planes: Planes,
    metric: Metric,
    count: int,
    area: LabelledArea | None = None,
) -> geopandas.GeoDataFrame:
    """The features with the lowest `prob_min10`, then the cells with the lowest mean probability of what they show.

    Cells are squares of the pixel lattice, 25 m wide or nearly, with data on half of a whole one or more, and less than
    half covered by the features listed. Their layer and name are empty, their feature_id is 0, their class is 255, and
    their `prob_edge` NaN. It does not order features: it finds outlines that run astray, which no verdict mends, and
    says little of what is no building at all.

    Args:
        layers: Polygons by layer, with the fields of VECTORS.
        planes: With probabilities.
        metric: Of their grid.
        count: Features, and cells, at most.
        area: What the cells are cut to.

    Returns:
        Features, then cells, each least certain first, in the grid's CRS.
    """
    features = _features(layers, count)
    cells = _cells(planes, metric, count, features.geometry, area)
    rows = pd.concat([features, cells], ignore_index=True) if len(cells) else features
    rows["id"] = np.arange(1, len(rows) + 1)
    rows["verdict"] = ""
    crs = CRS.from_wkt(planes.grid.crs) if planes.grid.crs else None
    return geopandas.GeoDataFrame(rows[list(_FIELDS)], geometry=rows["geometry"].to_numpy(), crs=crs)


def _features(layers: Mapping[str, AnyTable], count: int) -> geopandas.GeoDataFrame:
    """The rows of all layers with the lowest 10th percentile; of equal ones those of the first layer and id."""
    found = []
    for layer, table in ((layer, Table.of(rows)) for layer, rows in layers.items()):
        least = table.fields["prob_min10"].dropna().sort_values(kind="stable").index[:count].to_numpy()
        fields = table.fields.iloc[least].rename(columns={"id": "feature_id"}).assign(layer=layer)
        found.append(geopandas.GeoDataFrame(fields, geometry=table.shapes[least], crs=table.crs))
    kept = [*_FIELDS[2:-1], "geometry"]
    none = geopandas.GeoDataFrame({name: [] for name in kept[:-1]}, geometry=[])
    rows = pd.concat([frame[kept] for frame in found if len(frame)] or [none], ignore_index=True)
    rows = rows.sort_values("prob_min10", kind="stable").head(count).reset_index(drop=True)
    rows = rows.astype({"feature_id": np.int32, "class": np.int32})
    return geopandas.GeoDataFrame(rows.assign(kind="feature"), geometry="geometry")


def _cells(
    planes: Planes, metric: Metric, count: int, listed: geopandas.GeoSeries, area: LabelledArea | None
) -> geopandas.GeoDataFrame:
    lattice = _Lattice.of(planes, metric)
    mean = lattice.means()
    back = ~planes.grid.transform
    # Of features that are no valid polygons no share can be had; such are rare, and of foreign rasters.
    taken = shapely.transform(listed.to_numpy(), lambda xy: np.column_stack(back @ (xy[:, 0], xy[:, 1])))
    tree = shapely.STRtree(shapely.make_valid(taken))
    order = np.argsort(mean, axis=None, kind="stable")
    rows: list[tuple[shapely.Geometry, float, float]] = []
    for at in order[: np.isfinite(mean).sum()]:
        if len(rows) == count:
            break
        window = lattice.window(*divmod(int(at), mean.shape[1]))
        box = shapely.box(window.col, window.row, window.stop_col, window.stop_row)
        over = tree.geometries[tree.query(box)]
        if shapely.area(shapely.intersection(over, box)).sum() >= _COVERED * box.area:
            continue
        sure = lattice.certainty(window)
        low = np.percentile(sure[sure != NODATA], 10) / PROBABILITY_SCALE
        rows.append((_cut(box, area), round(float(mean.flat[at]), 4), round(float(low), 4)))
    shapes = shapely.transform(
        np.array([row[0] for row in rows], object),
        lambda xy: np.column_stack(planes.grid.transform @ (xy[:, 0], xy[:, 1])),
    )
    about = {"prob": [row[1] for row in rows], "prob_min10": [row[2] for row in rows]}
    blank = {"kind": "cell", "layer": "", "name": "", "feature_id": 0, "class": NODATA, "prob_edge": np.nan}
    return geopandas.GeoDataFrame({**about, **blank}, geometry=shapes, crs=listed.crs)


def _cut(box: shapely.Polygon, area: LabelledArea | None) -> shapely.Geometry:
    """A cell without what lies outside the area."""
    if area is None:
        return box
    inside = area.polygons.polygons
    near = inside[shapely.STRtree(inside).query(box, predicate="intersects")]
    parts = shapely.get_parts(shapely.intersection(box, shapely.union_all(near)))
    return shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])


@dataclass(frozen=True, slots=True, eq=False)
class _Lattice:
    """Squares over a grid; the last of a row or column may be narrower."""

    planes: Planes
    side: int
    """In pixels."""

    @classmethod
    def of(cls, planes: Planes, metric: Metric) -> "_Lattice":
        """The lattice of a raster."""
        side = max(_LEAST_CELL, round(_CELL_M / metric.gsd)) if metric.unit == "m" else _NO_GSD_CELL
        return cls(planes, side)

    def window(self, row: int, col: int) -> Window:
        """Of a cell."""
        grid, side = self.planes.grid, self.side
        top, left = row * side, col * side
        return Window(row=top, col=left, height=min(side, grid.height - top), width=min(side, grid.width - left))

    def means(self) -> np.ndarray:
        """(rows, columns) float64 mean probability of the class that each valid pixel has; inf where few are valid."""
        grid, side = self.planes.grid, self.side
        starts = np.arange(0, grid.width, side)
        found = []
        whole = min(side, grid.height) * min(side, grid.width)
        step = side * math.ceil(self.planes.step / side)
        for row in range(0, grid.height, step):
            strip = Window(row=row, col=0, height=min(step, grid.height - row), width=grid.width)
            certainty = self.certainty(strip)
            valid = certainty != NODATA
            rows = np.arange(0, strip.height, side)
            total, pixels = (
                np.add.reduceat(np.add.reduceat(plane, rows, axis=0, dtype=np.int64), starts, axis=1)
                for plane in (np.where(valid, certainty, 0), valid)
            )
            mean = total / np.maximum(pixels, 1) / PROBABILITY_SCALE
            found.append(np.where(pixels >= _VALID * whole, mean, np.inf))
        return np.concatenate(found)

    def certainty(self, window: Window) -> np.ndarray:
        """(h, w) uint8 probability times 254 of the class that each pixel has; 255 without data."""
        labels = self.planes.labels(window)
        found = np.full(labels.shape, NODATA, np.uint8)
        for value in self.planes.classes:
            here = labels == value
            if here.any() and (own := self.planes.probability(window, value)) is not None:
                found[here] = own[here]
        return found
