"""Run by QGIS's own Python: open a class raster and a GeoPackage as a user does, and say what QGIS made of them.

python3 qgis_probe.py FOLDER GPKG RASTER...: JSON on stdout; the first raster and the layers as pictures in FOLDER.
"""

import json
import os
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor


def describe(layer):
    extent = layer.extent()
    return {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "extent": [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
        "renderer": layer.renderer().type(),
    }


def describe_raster(layer):
    provider, renderer = layer.dataProvider(), layer.renderer()
    classes = renderer.classes() if renderer.type() == "paletted" else []
    return {
        **describe(layer),
        "nodata": provider.sourceNoDataValue(1) if provider.sourceHasNoDataValue(1) else None,
        "classes": {int(entry.value): [entry.label, entry.color.name()] for entry in classes},
    }


def describe_vector(layer):
    symbol = layer.renderer().symbol()
    return {
        **describe(layer),
        "features": layer.featureCount(),
        "color": symbol.color().name(),
        "alpha": symbol.color().alpha(),
        "outline": symbol.symbolLayer(0).strokeColor().name(),
        "labels": layer.labelsEnabled(),
        "all valid": all(feature.geometry().isGeosValid() for feature in layer.getFeatures()),
    }


def draw(layers, extent, path):
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setExtent(extent)
    settings.setDestinationCrs(layers[-1].crs())
    settings.setOutputSize(QSize(800, 600))
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(path)


def main(folder, vector_path, *raster_paths):
    rasters = [QgsRasterLayer(path, Path(path).stem) for path in raster_paths]
    vectors = []
    for sublayer in QgsProviderRegistry.instance().querySublayers(vector_path):
        layer = QgsVectorLayer(sublayer.uri(), sublayer.name(), "ogr")
        if layer.isSpatial():
            vectors.append(layer)
    extent = rasters[0].extent()
    for name, layers in {"raster": rasters[:1], "vectors": vectors, "both": vectors + rasters[:1]}.items():
        draw(layers, extent, f"{folder}/{name}.png")
    found = {
        "rasters": {layer.name(): describe_raster(layer) for layer in rasters},
        "vectors": {layer.name(): describe_vector(layer) for layer in vectors},
    }
    print(json.dumps(found), flush=True)


def run(main):
    """Call a probe with the arguments of the command line, in QGIS."""
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    main(*sys.argv[1:])
    os._exit(0)  # not exitQgis: it crashes while Python still holds layers


if __name__ == "__main__":
    run(main)
