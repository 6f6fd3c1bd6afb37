"""Run by QGIS's own Python: say where rasters and layers lie, and draw what is bright in the first raster.

python3 qgis_drawing_probe.py FOLDER RASTER... VECTORS...: JSON on stdout; FOLDER/drawn.gpkg is drawn in QGIS on the
first raster, a box round every run of bright pixels in a row; FOLDER/overlay.png is all vectors over that raster.
"""

import json
from pathlib import Path

from qgis.core import (
    QgsFeature,
    QgsGeometry,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorFileWriter,
    QgsVectorLayer,
)
from qgis_layers_probe import layers_of
from qgis_probe import draw, run

BRIGHT = 128


def extent_of(layer):
    extent = layer.extent()
    return [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]


def bright(layer):
    """Boxes in the coordinates of the map, by what QGIS shows there."""
    extent, height, width = layer.extent(), layer.height(), layer.width()
    block = layer.dataProvider().block(1, extent, width, height)
    x, y = extent.width() / width, extent.height() / height
    for row in range(height):
        seen = [not block.isNoData(row, col) and block.value(row, col) > BRIGHT for col in range(width)] + [False]
        starts = [col for col in range(width) if seen[col] and not (col and seen[col - 1])]
        for start in starts:
            left, right = extent.xMinimum() + start * x, extent.xMinimum() + seen.index(False, start) * x
            top = extent.yMaximum() - row * y
            yield QgsRectangle(left, top - y, right, top)


def draw_on(layer, path):
    drawn = QgsVectorLayer("Polygon", "building", "memory")
    drawn.setCrs(layer.crs())
    features = []
    for box in bright(layer):
        feature = QgsFeature()
        feature.setGeometry(QgsGeometry.fromRect(box))
        features.append(feature)
    drawn.dataProvider().addFeatures(features)
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.layerName = "building"
    error = QgsVectorFileWriter.writeAsVectorFormatV3(drawn, path, QgsProject.instance().transformContext(), options)
    assert error[0] == QgsVectorFileWriter.NoError, error


def main(folder, *paths):
    rasters, vectors = {}, {}
    for path in paths:
        if path.endswith(".gpkg"):
            vectors[Path(path).name] = [layer for layer in layers_of(path) if layer.featureCount()]
        else:
            rasters[Path(path).name] = QgsRasterLayer(path, Path(path).stem)
    first = next(iter(rasters.values()))
    draw_on(first, f"{folder}/drawn.gpkg")
    draw([*(layer for layers in vectors.values() for layer in layers), first], first.extent(), f"{folder}/overlay.png")
    found = {name: extent_of(layer) for name, layer in rasters.items()}
    found |= {name: {layer.name(): extent_of(layer) for layer in layers} for name, layers in vectors.items()}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    run(main)
