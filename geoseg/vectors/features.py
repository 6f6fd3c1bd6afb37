"""Features: the shapes of each class with what is measured of them, as frames in the raster's CRS."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import geopandas
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from geoseg.qgis import layer_style
from geoseg.vectors.areas import fit_areas
from geoseg.vectors.cleaning import Cleaning, clean, pixels_below, pixels_in
from geoseg.vectors.edges import weakest_stretches
from geoseg.vectors.journal import Frames, Journal
from geoseg.vectors.kinds import kinds_of
from geoseg.vectors.layer import layer_name
from geoseg.vectors.metric import Metric
from geoseg.vectors.options import OutlineOptions
from geoseg.vectors.patches import AnyPatches, spans
from geoseg.vectors.planes import Planes
from geoseg.vectors.raw import RawShapes
from geoseg.vectors.store import Store
from geoseg.vectors.stored import trace_into
from geoseg.vectors.streets import Network, find_streets
from geoseg.vectors.table import AnyTable, Table
from geoseg.vectors.touching import trace_apart_into
from geoseg.vectors.walls import METHODS, fit_walls, keep_inside
from geoseg.vectors.walls.neighbours import part, whole

_BATCH = 1 << 18
"""Vertices of raw outlines that are looked at in one go."""

_SLIVER_M2 = 1e-3
"""Ground that two buildings may share: a tenth of what `geoseg evaluate` calls an overlap."""

Some = TypeVar("Some", bound=pd.DataFrame)


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """A layer: its rows, and how QGIS shows them."""

    frame: AnyTable
    """Shapes in the raster's CRS; the fields of VECTORS in their order."""
    style: str
    """QML."""


@dataclass(frozen=True, slots=True, eq=False)
class Outliner:
    """Makes the layers of a class, kind by kind."""

    planes: Planes
    """What is outlined."""
    metric: Metric
    """Of its grid."""
    options: OutlineOptions
    """How."""
    folder: Path | None = None
    """Where there is room for outlines that memory need not hold; None: where temporary files go."""
    journal: Journal = field(default_factory=Journal)
    """What of this is finished already."""

    def outline(
        self, chosen: Mapping[int, str], kinds: Mapping[str, str], colors: Mapping[str, str]
    ) -> dict[str, Feature]:
        """All layers of the classes chosen, in their order.

        Args:
            chosen: Name by pixel value.
            kinds: Kind by name.
            colors: "#rrggbb" by name.
        """
        if self.options.raw:
            return self._raw(chosen, colors)
        # Those that are not outlined, too.
        known = {**kinds_of(list(self.planes.classes.values())), **kinds}
        solid = [value for value, name in self.planes.classes.items() if known[name] == "building"]
        found: dict[str, Feature] = {}
        areas = self._kept(lambda: self._areas({v: name for v, name in chosen.items() if kinds[name] != "building"}))
        for value, name in chosen.items():
            layers, color = layer_names(name, kinds[name], raw=False), colors[name]
            if kinds[name] == "building":
                frames = self._kept(lambda: {layers[0]: self._buildings(value, name)})  # noqa: B023 -- called at once
                found[layers[0]] = Feature(frames[layers[0]], layer_style("buildings", color))
                continue
            surfaces = "road_surfaces" if kinds[name] == "road" else "areas"
            found[layers[0]] = Feature(areas[name], layer_style(surfaces, color))
            if kinds[name] == "road":
                frames = self._kept(lambda: self._streets(layers, value, name, solid))  # noqa: B023
                style = layer_style("roads", color, width=f"width_{self.metric.unit}")
                found[layers[1]] = Feature(frames[layers[1]], style)
                found[layers[2]] = Feature(frames[layers[2]], layer_style("road_nodes", color))
        return found

    def _kept(self, make: Callable[[], Frames]) -> Frames:
        return self.journal.frames(make, self._crs)

    def _streets(self, layers: Sequence[str], value: int, name: str, solid: Sequence[int]) -> Frames:
        """Lines and nodes of a network, by the second and third of a class's layers."""
        network = find_streets(self.planes, value, self.metric, self.options.rules, solid=solid, run=self.journal.map)
        return {layers[1]: self._lines(network, value, name), layers[2]: self._nodes(network, value, name)}

    def _raw(self, chosen: Mapping[int, str], colors: Mapping[str, str]) -> dict[str, Feature]:
        """Layers of the pixels' own outlines, which are made again when they are written."""
        values, least = list(chosen), 1
        if self.metric.unit == "m":  # pixels are not of one size everywhere: what is left is left out by its area
            least = max(1, pixels_below(0.8 * self.options.least_m2, self.metric))
        patches = trace_into(Store(self.folder), self.planes, values, subpixel=False, min_pixels=least)
        found = {}
        for value, name in chosen.items():
            kept, fields = self._measured(patches, np.flatnonzero(patches.value == value))
            kinds = frozenset({"Polygon"} if len(kept) else ())
            table = Table(_named(fields, name), RawShapes(patches, kept, self._place), kinds, self._crs)
            found[layer_name(name)] = Feature(table, layer_style("buildings", colors[name]))
        return found

    def _measured(self, patches: AnyPatches, index: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        """Those of the raw patches that are large enough, and their fields; some at a time, steps of the journal."""

        def fields(part: tuple[int, int]) -> pd.DataFrame:
            chosen = index[slice(*part)]
            some = patches.load(chosen)
            pixels, method = some.polygons(), np.full(len(some), "raw")
            shapes = shapely.transform(pixels, self.metric.to_metres)
            frame = self._polygons(shapes, some, method, {}, placed=self._place(pixels))
            frame.insert(0, "patch", chosen[frame.index])
            return pd.DataFrame(frame.drop(columns=["method", "source", frame.geometry.name]))

        sizes = np.diff(patches.ring_offsets[patches.patch_offsets])[index]
        parts = list(spans(np.append(0, np.cumsum(sizes)), _BATCH))
        none = fields((0, 0))
        found = self.journal.map(lambda part: _arrays(fields(part)), parts)
        columns = map(np.concatenate, zip(_arrays(none), *found, strict=True))
        rows = pd.DataFrame(dict(zip(none, columns, strict=True)))
        return rows.pop("patch").to_numpy(), rows.assign(method="raw", source=self.planes.source)

    def _buildings(self, value: int, name: str) -> geopandas.GeoDataFrame:
        options, gsd, store = self.options, self.metric.gsd, Store(self.folder)
        metres = self.metric.unit == "m"
        # Far smaller than what is left out below.
        pixels = pixels_in(0.5 * options.least_m2, self.metric) if metres else 1
        if options.split_touching:
            patches = trace_apart_into(store, self.planes, value, gsd=gsd, min_pixels=pixels)
        else:
            patches = trace_into(store, self.planes, [value], subpixel=True, min_pixels=pixels)
        fit = fit_walls(patches, self.metric, angles=options.angles, min_hole_m2=options.least_hole_m2 if metres else 0)
        method = np.array(METHODS)[fit.method]
        angle = np.where(np.isin(method, ("walls", "rectangle")), fit.angle.round(1) % 90, np.nan)
        gap = pixels_in(options.least_hole_m2, self.metric) if metres else 1
        shapes = keep_inside(fit.shapes, self.planes, self.metric, min_gap=gap)
        frame = self._polygons(shapes, patches, method, {"angle_deg": angle}, placed=self._apart(shapes))
        return _of_class(frame, value, name)

    def _areas(self, chosen: Mapping[int, str]) -> Frames:
        """Polygons of classes that share their borders, by name."""
        if not chosen:
            return {}
        planes, small = self.planes, Cleaning()
        if self.metric.unit == "m":  # what would be left out goes to its neighbours, so that nothing gapes
            small = Cleaning(
                min_pixels=pixels_below(self.options.least_m2, self.metric),
                fill_pixels=pixels_below(self.options.least_hole_m2, self.metric),
            )
            planes = clean(planes, list(chosen), small)
        patches = trace_into(Store(self.folder), planes, list(chosen), subpixel=False, junctions=True)
        fit = fit_areas(patches, self.metric, tolerance_m=self.options.border_m)
        # By pixels, as above: simplified, some are smaller now, and left out they would gape.
        kept = patches.pixels >= small.min_pixels
        frame = self._polygons(fit.polygons, patches, fit.method, {}, kept=kept)
        return {name: _of_class(frame, value, name) for value, name in chosen.items()}

    def _polygons(
        self,
        shapes: np.ndarray,
        patches: AnyPatches,
        method: np.ndarray,
        more: Mapping[str, np.ndarray],
        placed: np.ndarray | None = None,
        kept: np.ndarray | None = None,
    ) -> geopandas.GeoDataFrame:
        """Rows of polygons in metres, and of their patches; where they are placed in the raster's CRS, if it is known.

        Only those `kept` (bool); by default those that are large enough.
        """
        unit, metres = self.metric.unit, self.metric.unit == "m"
        placed = _sound(shapely.transform(shapes, self.metric.to_crs)) if placed is None else placed
        area = shapely.area(shapes)
        fields = {
            "class": patches.value,
            "area_m2" if metres else "area_px": area.round(3),
            f"perimeter_{unit}": shapely.length(shapes).round(3),
            "n_vertices": shapely.get_num_coordinates(placed) - 1 - shapely.get_num_interior_rings(placed),
            **more,
            "holes": shapely.get_num_interior_rings(placed),
            **self._probabilities(patches.prob, patches.prob_min10),
            "method": method,
            "source": self.planes.source,
        }
        frame = geopandas.GeoDataFrame(fields, geometry=placed, crs=self._crs)
        if kept is None and metres:
            kept = area >= self.options.least_m2
        frame = frame if kept is None else frame[kept]
        edge = np.full(len(frame), np.nan)
        for value in np.unique(frame["class"]):
            here = (frame["class"] == value).to_numpy()
            edge[here] = weakest_stretches(frame.geometry.to_numpy()[here], self.planes, int(value), self.metric)
        frame.insert(frame.columns.get_loc("prob_min10") + 1, "prob_edge", edge.round(4))
        return frame

    def _lines(self, network: Network, value: int, name: str) -> geopandas.GeoDataFrame:
        unit = self.metric.unit
        placed = shapely.transform(network.lines, self.metric.to_crs)
        # Half a width at either end is passed over: there the surface ends, or that of another street begins.
        edge = weakest_stretches(placed, self.planes, value, self.metric, clear_m=network.width_m / 2)
        fields = {
            "id": np.arange(1, len(network.lines) + 1),
            "class": np.full(len(network.lines), value, np.int32),
            "name": name,
            f"length_{unit}": network.length_m.round(3),
            f"width_{unit}": network.width_m.round(2),
            "width_p10": network.width_p10.round(2),
            "width_p90": network.width_p90.round(2),
            "from_node": network.from_node + 1,
            "to_node": network.to_node + 1,
            "bridged": network.bridged,
            # Of classes alone, streets are found as if these were certain.
            **self._probabilities(
                *(np.where(np.isnan(edge), np.nan, each) for each in (network.prob, network.prob_min10))
            ),
            "prob_edge": edge.round(4),
            "method": "streets",
            "source": self.planes.source,
        }
        return geopandas.GeoDataFrame(fields, geometry=placed, crs=self._crs)

    def _nodes(self, network: Network, value: int, name: str) -> geopandas.GeoDataFrame:
        fields = {
            "id": np.arange(1, len(network.nodes) + 1),
            "class": np.full(len(network.nodes), value, np.int32),
            "name": name,
            "degree": network.degree,
            "source": self.planes.source,
        }
        points = shapely.points(self.metric.to_crs(network.nodes.reshape(-1, 2)))
        return geopandas.GeoDataFrame(fields, geometry=points, crs=self._crs)

    @staticmethod
    def _probabilities(mean: np.ndarray, low: np.ndarray) -> dict[str, Any]:
        return {"prob": mean.round(4), "prob_min10": low.round(4)}

    @property
    def _crs(self) -> CRS | None:
        return CRS.from_wkt(self.planes.grid.crs) if self.planes.grid.crs else None

    def _apart(self, shapes: np.ndarray) -> np.ndarray:
        """Polygons in metres that do not overlap, in the raster's CRS, where they do not either.

        A straight wall is bent there by less than a millimetre, and the corner of a neighbour on it is not.
        """
        placed = _sound(shapely.transform(shapes, self.metric.to_crs))
        pixel = abs(self.planes.grid.transform.determinant)
        return part(placed, _SLIVER_M2 * pixel / self.metric.gsd**2)

    def _place(self, pixels: np.ndarray) -> np.ndarray:
        """Polygons in pixels by the raster's transform, to the last bit."""
        transform = self.planes.grid.transform
        return _sound(shapely.transform(pixels, lambda xy: np.column_stack(transform @ (xy[:, 0], xy[:, 1]))))


def _sound(placed: np.ndarray) -> np.ndarray:
    """Polygons after a transform: what touched itself before may cross itself by a rounding now."""
    for k in np.flatnonzero(~shapely.is_valid(placed)):
        placed[k] = whole(shapely.make_valid(placed[k]), placed[k])
    return placed


def _of_class(frame: geopandas.GeoDataFrame, value: int, name: str) -> geopandas.GeoDataFrame:
    """The rows of one class, numbered, with its name."""
    return _named(frame[frame["class"] == value].reset_index(drop=True), name)


def _named(rows: Some, name: str) -> Some:
    """Rows with numbers and the name of their class."""
    rows.insert(0, "id", np.arange(1, len(rows) + 1))
    rows.insert(2, "name", name)
    return rows


def _arrays(rows: pd.DataFrame) -> tuple[np.ndarray, ...]:
    return tuple(rows[name].to_numpy() for name in rows)


def layer_names(name: str, kind: str, *, raw: bool) -> tuple[str, ...]:
    """The layers of a class."""
    if kind == "road" and not raw:
        lines = "roads" if name == "road" else f"{name}_lines"
        return f"{name}_surfaces", lines, f"{name}_nodes"
    return (layer_name(name),)
