"""Run: a prediction that nothing stands against any more, and all that is refused on the way to one."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from geoseg import __version__
from geoseg.checkpoint import Checkpoint, Header, load_checkpoint, resolve_model
from geoseg.engine import CellTask
from geoseg.errors import UsageError
from geoseg.layers import Keep, Layer, layers_of
from geoseg.outlines import Outlines, is_class_raster
from geoseg.outputs import Outputs
from geoseg.plans import plan_for
from geoseg.predict import Placement
from geoseg.preflight import agreed, open_scene, open_stack, resampled, warn_of_differences
from geoseg.products import Products
from geoseg.raster import RasterProfile, check_free_space, check_storable
from geoseg.scene import Scene
from geoseg.scene.resampled import Resampled
from geoseg.scene.stack import Stack
from geoseg.settings import Settings
from geoseg.targets import labelled_area
from geoseg.vectors.cleaning import Cleaning, pixels_below
from geoseg.vectors.metric import Metric, warn_of_unused
from geoseg.vectors.shapefile import digest
from geoseg.windows import Plan, TaperedPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A prediction that nothing stands against any more."""

    products: Products
    outputs: Outputs
    scene: dict[str, Any]
    """The scene's fingerprint."""
    task: CellTask
    header: Header
    """Of the model, or what the members of an ensemble agree on."""
    layers: dict[str, Layer]
    """What the cells hold, by name; most of them are shown by a raster."""
    outlines: Outlines | None
    """What becomes of `products.vectors`."""
    cleaning: Cleaning
    """What is done to the class rasters when all cells are there."""
    profile: RasterProfile
    """Of the class raster; the others differ from it in what they hold."""

    @property
    def spool_folder(self) -> Path:
        """Beside the class raster."""
        labels = self.products.paths()["labels"]
        return labels.with_name(labels.name + ".partial")

    @property
    def files(self) -> dict[str, Path]:
        """Every file that was asked for, by name; the class raster, or the first of several, comes first."""
        rasters = self.products.rasters(self.layers)
        main = {name: path for name, path in rasters.items() if self.layers[name].kind in ("labels", "values")}
        return main | (self.outlines.paths if self.outlines else {}) | rasters

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the cells depend on, in the user's words; a run goes on only where all of it is the same."""
        task, plan, scene = self.task, self.task.plan, dict(self.scene)
        return {
            "--model": self.header.sha256,
            "--bands": scene.pop("bands"),
            "--nodata": scene.pop("nodata"),
            "--aoi": task.area and digest(Path(task.area)),
            "--tile-size": plan.tile_size,
            "--overlap": plan.overlap,
            "--blend": "taper" if isinstance(plan, TaperedPlan) else "crop",
            **{f"--{name.replace('_', '-')}": value for name, value in asdict(task.placement).items()},
            **{f"--{name}": value for name, value in asdict(task.keep).items()},
            "the scene": scene,
            "geoseg": __version__,
        }


def prepare(
    scenes: list[str], models: list[str], products: Products | None, settings: Settings, overwrite: bool
) -> Run:
    """Refuse what can be refused before the first pixel. Arguments and errors are those of `predict_scene`."""
    if not isinstance(settings, Settings) or not isinstance(products, Products | None):
        raise UsageError("products or settings are of the wrong kind. Expected Products(labels=PATH) and Settings().")
    if len(set(models)) < max(len(models), 1):
        said = f"{models[0]} is named twice" if models else "no model is named"
        raise UsageError(f"--model: {said}. Expected at least one, and different ones.")
    if not scenes:
        raise UsageError("no scene is given. Expected at least one.")
    products = products or Products.beside_caller(scenes[0], models)
    products.check()
    checkpoints = {name: load_checkpoint(resolve_model(name).absolute()) for name in models}
    header = agreed({name: checkpoint.header for name, checkpoint in checkpoints.items()})
    layers = layers_of(
        header.heads, products.keep, attention_maps=_attention_maps(checkpoints, products.keep, settings.tta)
    )
    with _open(scenes, header, settings) as source:
        paths = [resolve_model(name).absolute() for name in models]
        read = [*paths, *source.source.paths, settings.aoi]
        vectors = {"vectors": Path(products.vectors)} if products.vectors else {}
        outputs = _outputs(products, layers, vectors, read, overwrite)
        _check_styles(products, layers, scenes)
        metric = _metric(source, settings.gsd)
        if outlines := _outlines(products, layers, header, metric):  # their files may be others than the one named
            outputs = _outputs(products, layers, outlines.files.paths, read, overwrite)
        warn_of_differences(source.path, source, [item.header for item in checkpoints.values()], metric.given_gsd)
        if settings.aoi:
            # Refused now rather than by the first worker.
            labelled_area(settings.aoi, source.grid, what="the area of interest")
        cleaning = _cleaning(metric, settings, source.path)
        fingerprint = source.source.fingerprint()
        plan = plan_for(
            source.grid.shape, header, settings.number("tile_size"), settings.number("overlap"), settings.blend
        )
        _check_margin(plan, max(checkpoint.margin for checkpoint in checkpoints.values()))
        task = CellTask(
            scene=source.source,
            version=json.dumps(fingerprint, sort_keys=True),
            checkpoints=tuple(zip(map(str, paths), [item.header.sha256 for item in checkpoints.values()], strict=True)),
            plan=plan,
            placement=Placement.resolve(
                settings.device, settings.precision, settings.number("batch_size"), tta=settings.tta
            ),
            keep=products.keep,
            area=str(Path(settings.aoi).absolute()) if settings.aoi else None,
        )
        check_free_space(products.disk_needs(layers), source.grid.window.area)
        tags = _tags(task, header, settings, metric)
        profile = RasterProfile(grid=source.grid, gcps=source.gcps, rpcs=source.rpcs, tags=tags)
        check_storable(profile)
    return Run(
        products=products,
        outputs=outputs,
        scene=fingerprint,
        task=task,
        header=header,
        layers=layers,
        outlines=outlines,
        cleaning=cleaning,
        profile=profile,
    )


def _open(scenes: Sequence[str], header: Header, settings: Settings) -> Scene | Stack | Resampled:
    if len(scenes) == 1:
        scene: Scene | Stack = open_scene(scenes[0], header, settings.bands, settings.nodata)
    else:
        scene = open_stack(scenes, header, settings.bands, settings.nodata)
    warn_of_unused(settings.gsd, scene.path, scene.grid)
    with ExitStack() as opened:
        opened.enter_context(scene)
        found = resampled(scene, header, settings.gsd) if settings.resample else scene
        opened.pop_all()
        return found


def _metric(scene: Scene | Stack | Resampled, given: float | None) -> Metric:
    """Of the pixels that are predicted; `given` are metres per pixel of the file."""
    if given is not None and isinstance(scene, Resampled):
        given *= scene.factor.pixels
    return Metric(scene.grid, given)


def _attention_maps(checkpoints: Mapping[str, Checkpoint], keep: Keep, tta: bool) -> int:
    if not keep.attention:
        return 0
    name, checkpoint = next(iter(checkpoints.items()))
    maps = getattr(checkpoint.build(), "attention_maps", 0)
    if len(checkpoints) > 1 or not maps:
        said = "several models" if len(checkpoints) > 1 else f"{name} ({checkpoint.header.arch})"
        raise UsageError(f"--attention: {said} cannot show attention. Expected one model with attention gates.")
    if tta:
        raise UsageError("--attention: the gates of several views of a tile say nothing together. Leave out --tta.")
    return int(maps)


def _outlines(products: Products, layers: Mapping[str, Layer], header: Header, metric: Metric) -> Outlines | None:
    if products.vectors is None:
        return None
    others = [*products.rasters(layers).values(), *_styles(products, layers).values()]
    return Outlines.prepare(Path(products.vectors), header, layers, metric, others, products.review)


def _styles(products: Products, layers: Mapping[str, Layer]) -> dict[str, Path]:
    """QGIS lists all 256 entries of a colour table; the style beside each class raster names the classes alone."""
    rasters = products.rasters(layers)
    return {f"style of {n}": path.with_suffix(".qml") for n, path in rasters.items() if is_class_raster(layers[n])}


def _outputs(
    products: Products,
    layers: Mapping[str, Layer],
    vectors: Mapping[str, Path],
    inputs: Sequence[str | Path | None],
    overwrite: bool,
) -> Outputs:
    """The names of all files, checked: the rasters, the style beside each class raster, and the vectors."""
    files = products.rasters(layers) | _styles(products, layers) | dict(vectors)
    # The spool's lock keeps a second run of that name out.
    run = str(products.paths()["labels"].absolute())
    read = [path for path in inputs if path]
    return Outputs(files, inputs=read, overwrite=overwrite, run=run)


def _cleaning(metric: Metric, settings: Settings, scene: str) -> Cleaning:
    if not (settings.min_patch_m2 or settings.fill_holes_m2):
        return Cleaning()
    if metric.unit != "m":
        name = "min-patch-m2" if settings.min_patch_m2 else "fill-holes-m2"
        raise UsageError(
            f"--{name} means nothing without a CRS ({scene}). Expected the size of a pixel: give --gsd METRES."
        )
    return Cleaning(
        min_pixels=pixels_below(settings.min_patch_m2, metric), fill_pixels=pixels_below(settings.fill_holes_m2, metric)
    )


def _check_margin(plan: Plan, margin: int) -> None:
    if plan.halo < margin:
        raise UsageError(
            f"--overlap {plan.overlap}: a network without padding says nothing of the outer {margin} pixels of what it "
            f"sees. Expected cropped tiles that overlap by at least {2 * margin}. Leave --overlap and --blend out."
        )


def _check_styles(products: Products, layers: Mapping[str, Layer], scenes: Sequence[str]) -> None:
    """Refuse a style that QGIS would apply to a scene itself."""
    styled = [path for name, path in products.rasters(layers).items() if is_class_raster(layers[name])]
    for scene, path in product(scenes, styled):
        if path.with_suffix(".qml").absolute() == Path(scene).with_suffix(".qml").absolute():
            raise UsageError(
                f"{path} differs from the scene {scene} in its ending alone: QGIS would style the scene as "
                "classes. Expected another name or folder."
            )


def _tags(task: CellTask, header: Header, settings: Settings, metric: Metric) -> dict[str, str]:
    """What decided the pixels: no paths and no time of day, so that equal runs give equal bytes."""
    said = {
        "VERSION": __version__,
        "CHECKPOINT": header.sha256,
        "ARCH": header.arch,
        "BANDS": ",".join(map(str, task.scene.bands)),
        "NODATA_OVERRIDE": task.scene.nodata,
        "TILE_SIZE": task.plan.tile_size,
        "OVERLAP": task.plan.overlap,
        "BLEND": "taper" if isinstance(task.plan, TaperedPlan) else "crop",
        "DEVICE": task.placement.device.partition(":")[0],
        "PRECISION": task.placement.precision,
        "TTA": task.placement.tta or None,
        "BATCH_SIZE": None if task.placement.device == "cpu" else task.placement.batch_size,
        "GSD": metric.given_gsd if metric.grid.gsd is None else None,
        "MIN_PATCH_M2": settings.min_patch_m2 or None,
        "FILL_HOLES_M2": settings.fill_holes_m2 or None,
        "LICENCE": header.licence or None,
        "ORIGIN": header.origin or None,
    }
    return {f"GEOSEG_{name}": str(value) for name, value in said.items() if value is not None}
