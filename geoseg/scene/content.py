"""What a file holds beside its pixels: a palette, and ways to say that pixels are missing."""

from rasterio.enums import ColorInterp, MaskFlags

from geoseg.scene import Scene

Color = tuple[int, int, int]


def palette_of(scene: Scene) -> dict[int, Color] | None:
    """The colours of a file of one band that holds indexes into a table of them; None of other files."""
    dataset = scene._dataset
    if len(scene.bands) != 1 or dataset.colorinterp[scene.bands[0].index - 1] is not ColorInterp.palette:
        return None
    try:
        table = dataset.colormap(scene.bands[0].index)
    except ValueError:  # said to be a palette, but without one
        return None
    return {value: color[:3] for value, color in table.items()}


def may_lack_pixels(scene: Scene) -> bool:
    """Whether some pixel can be invalid: the file has an alpha band, a mask or a nodata value, or holds floats."""
    flags = scene._dataset.mask_flag_enums[scene.bands[0].index - 1]
    return scene.dtype.kind == "f" or MaskFlags.all_valid not in flags or any(v is not None for v in scene.nodata)
