"""Streets: the road class of a raster -> a network of centrelines with widths.

Scores are smoothed and thresholded into a surface, the surface is thinned in tiles with halo into a list of pixels, the
pixels are chained into a graph, and the graph is put right: spurs pruned, junctions contracted and put where their arms
meet, gaps bridged, crossings made nodes, ends drawn out to where the surface ends. No raster of the whole scene is ever
held.
"""

from geoseg.vectors.streets.network import Network, find_streets
from geoseg.vectors.streets.rules import Rules

__all__ = ["Network", "Rules", "find_streets"]
