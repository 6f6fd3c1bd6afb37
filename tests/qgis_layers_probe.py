"""Run by QGIS's own Python: open vector files as a user does, and say how their layers look.

python3 qgis_layers_probe.py FOLDER FILE...: JSON on stdout; a picture of each file from near and from afar in FOLDER.
"""

import json
from pathlib import Path

from qgis.core import QgsProviderRegistry, QgsRectangle, QgsVectorLayer, QgsWkbTypes
from qgis_probe import draw, run

AFAR = 16  # times the extent
ORDER = ("road_nodes", "buildings", "roads", "road_surfaces")  # topmost first


def describe(layer):
    renderer = layer.renderer()
    symbol = renderer.symbol()
    return {
        "valid": layer.isValid(),
        "crs": layer.crs().authid(),
        "features": layer.featureCount(),
        "fields": [field.name() for field in layer.fields()],
        "kind": QgsWkbTypes.geometryDisplayString(layer.geometryType()),
        "all valid": all(feature.geometry().isGeosValid() for feature in layer.getFeatures()),
        "symbol layers": [part.layerType() for part in symbol.symbolLayers()],
        "levels": renderer.usingSymbolLevels(),
        "color": symbol.symbolLayer(symbol.symbolLayerCount() - 1).color().name(),
        "opacity": layer.opacity(),
        "least scale": layer.minimumScale() if layer.hasScaleBasedVisibility() else None,
        "labels": layer.labelsEnabled(),
    }


def layers_of(path):
    found = []
    for sublayer in QgsProviderRegistry.instance().querySublayers(path):
        layer = QgsVectorLayer(sublayer.uri(), sublayer.name(), "ogr")
        if layer.isSpatial():
            found.append(layer)
    return found


def place(layer):
    return next((place for place, name in enumerate(ORDER) if layer.name().endswith(name)), len(ORDER))


def main(folder, *paths):
    found = {}
    for path in paths:
        layers = sorted(layers_of(path), key=place)
        extent = QgsRectangle(layers[-1].extent())
        for layer in layers:
            extent.combineExtentWith(layer.extent())
        found[Path(path).name] = {layer.name(): describe(layer) for layer in layers}
        draw(layers, extent, f"{folder}/{Path(path).name}.near.png")
        extent.scale(AFAR)
        draw(layers, extent, f"{folder}/{Path(path).name}.afar.png")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    run(main)
