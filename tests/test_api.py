"""The Python API: light to import, every name there, and each does what the command of its verb does."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import rasterio
from affine import Affine
from checkpoints import write_checkpoint
from labelled import write_folder
from rasters import noise, write_raster

import geoseg


def test_importing_it_costs_nothing():
    code = "import sys, geoseg; print({'numpy', 'torch', 'rasterio', 'pydantic', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_name_is_there():
    for name in geoseg.__all__:
        assert getattr(geoseg, name) is not None
    assert set(geoseg.__all__) == set(dir(geoseg))
    for name in ("evaluate_prediction", "train_model", "vectorize_raster", "predict_scene"):
        assert name in geoseg.__doc__
        assert callable(getattr(geoseg, name))
    with pytest.raises(AttributeError, match="no attribute 'preduct'"):
        geoseg.preduct  # noqa: B018


@pytest.mark.parametrize("name", geoseg.__all__)
def test_no_name_is_also_a_module(name):
    """Or what it means would depend on what was imported before."""
    assert find_spec(f"geoseg.{name}") is None


def test_from_scene_to_scores(tmp_path):
    scene = write_raster(tmp_path / "scene.tif", noise((3, 60, 70)))
    model = write_checkpoint(tmp_path / "tiny.safetensors", cell_side=64)
    products = geoseg.Products(labels=str(tmp_path / "classes.tif"))
    done = geoseg.predict_scene(str(scene), str(model), products=products)
    assert done.paths == {"labels": tmp_path / "classes.tif"}
    assert done.side_files
    assert all(path.exists() for path in done.side_files)

    vectors = geoseg.vectorize_raster(
        str(tmp_path / "classes.tif"), str(tmp_path / "classes.gpkg"), options=geoseg.OutlineOptions()
    )
    assert vectors.path == tmp_path / "classes.gpkg"
    assert set(vectors.features) == {"buildings", "road_surfaces", "roads", "road_nodes"}

    exact = geoseg.vectorize_raster(
        tmp_path / "classes.tif", tmp_path / "raw.gpkg", options=geoseg.OutlineOptions(raw=True)
    )
    evaluation = geoseg.evaluate_prediction(str(tmp_path / "classes.tif"), str(exact.path))
    assert evaluation.scores.accuracy == 1
    assert evaluation.shortfall(1.0) is None
    assert evaluation.shortfall(0.5, "road") is None


def test_where_vectors_go_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    profile = {"driver": "GTiff", "count": 1, "height": 2, "width": 3, "dtype": "uint8", "crs": "EPSG:32637"}
    with rasterio.open("folder/town.tif", "w", transform=Affine(1, 0, 0, 0, -1, 0), **profile) as dataset:
        dataset.write(np.array([[0, 1, 1], [0, 0, 1]], np.uint8), 1)
    raw = geoseg.OutlineOptions(raw=True)
    assert geoseg.vectorize_raster("folder/town.tif", options=raw).to_dict() == {
        "paths": {"vectors": "town.gpkg"},
        "features": {"class_1": 1},
    }
    with pytest.raises(geoseg.GeosegError, match="--overwrite"):
        geoseg.vectorize_raster("folder/town.tif")
    geoseg.vectorize_raster("folder/town.tif", overwrite=True)


def test_training(tmp_path):
    config = geoseg.load_config(
        changes={
            "classes": [{"name": "background"}, {"name": "building"}],
            "data.sources": [{"folder": str(write_folder(tmp_path / "tiles"))}],
            "arch_args": {"width": 4, "depth": 2},
            "epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "tile_size": 32, "cell_side": 64,
        }
    )  # fmt: skip
    assert isinstance(config, geoseg.TrainConfig)
    path = geoseg.train_model(config, str(tmp_path / "run"), device="cpu")
    assert path == tmp_path / "run" / "model.safetensors"
    assert geoseg.load_checkpoint(path).header.cell_side == 64
