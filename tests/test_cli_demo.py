"""`geoseg demo`: everything it promises to write, and nothing over what is there."""

import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from PIL import Image

from geoseg.checkpoint import ClassInfo, Head, Header, save_checkpoint
from geoseg.cli.main import geoseg
from geoseg.errors import OutputError, OutputExistsError
from geoseg.metrics import IGNORE
from geoseg.models import build_model
from geoseg.synthetic import DEMO_SEED, draw_town
from geoseg.synthetic.files import write_town

pytestmark = pytest.mark.usefixtures("compiled")

FILES = ("scene.tif", "labels.gpkg", "prediction.tif", "prediction.gpkg", "before_after.png")
SIDE = 160


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; its classes stand in another order than the town's, and one more is among them."""
    torch.manual_seed(0)
    network = build_model("unet", in_channels=3, classes=4, width=2, depth=1).eval()
    names = {"background": "#111111", "water": "#0000ff", "road": "#ffff00", "building": "#ff0000"}
    header = Header(
        arch="unet",
        arch_args={"width": 2, "depth": 1},
        bands=("red", "green", "blue"),
        mean=(100.0,) * 3,
        std=(50.0,) * 3,
        value_range=((0.0, 255.0),) * 3,
        dtype="uint8",
        gsd=(0.1, 1.0, 0.3),
        heads={"main": Head(classes=tuple(ClassInfo(name=name, color=color) for name, color in names.items()))},
        cell_side=64,
        stride=2,
        receptive_radius=9,
    )
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, header, network.state_dict())
    return path


def run(folder: Path, model: Path | str, *more: str) -> Result:
    args = ["demo", str(folder), "--model", str(model), "--size", str(SIDE), "--gsd", "0.6", "--seed", "6", *more]
    return CliRunner().invoke(geoseg, args)


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("demo") / "town"
    return folder, run(folder, model)


def test_files_and_table(done: tuple[Path, Result]) -> None:
    folder, result = done
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[-5:] == [str(folder / name) for name in FILES]
    assert any(line.split()[:1] == ["building"] for line in lines)
    assert any(line.split()[:1] == ["road"] for line in lines)
    assert [line for line in result.stderr.splitlines() if "water counts as background" not in line] == []
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    assert not [path for path in folder.iterdir() if "part" in path.name]


def test_the_scene_is_a_town_of_a_demo_seed(done: tuple[Path, Result]) -> None:
    town = draw_town((SIDE, SIDE), 0.6, DEMO_SEED + 6)
    with rasterio.open(done[0] / "scene.tif") as src:
        assert (src.read() == town.image).all()
        assert ((src.dataset_mask() > 0) == town.valid).all()
        assert src.crs == town.grid.crs
        assert src.transform == town.grid.transform
        assert [interp.name for interp in src.colorinterp] == ["red", "green", "blue"]
        assert src.profile["tiled"]
        assert src.profile["compress"] == "deflate"


def test_labels_hold_the_town_exactly(done: tuple[Path, Result]) -> None:
    path = done[0] / "labels.gpkg"
    town = draw_town((SIDE, SIDE), 0.6, DEMO_SEED + 6)
    names = [name for name, kind in pyogrio.list_layers(path) if kind]
    assert names == ["labels", "buildings", "roads", "centrelines"]
    for name, frame in (("buildings", town.buildings), ("roads", town.roads), ("centrelines", town.centrelines)):
        back = geopandas.read_file(path, layer=name)
        assert back.geometry.geom_equals_exact(frame.geometry, 0).all()
        assert list(back.columns) == list(frame.columns)
        assert back.crs == town.grid.crs
    merged = geopandas.read_file(path, layer="labels")
    assert merged["class"].value_counts().to_dict() == {"building": len(town.buildings), "road": len(town.roads)}
    assert merged.is_valid.all()


def test_prediction_lies_on_the_scene(done: tuple[Path, Result]) -> None:
    with rasterio.open(done[0] / "scene.tif") as scene, rasterio.open(done[0] / "prediction.tif") as predicted:
        assert predicted.shape == scene.shape
        assert predicted.transform == scene.transform
        assert ((predicted.read(1) == IGNORE) == (scene.dataset_mask() == 0)).all()


def test_picture_shows_three_panels(done: tuple[Path, Result]) -> None:
    picture = np.asarray(Image.open(done[0] / "before_after.png").convert("RGB"))
    assert picture.shape[1] >= 2 * picture.shape[0]
    colours = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert len(colours) > 500


def test_same_bytes_again_and_no_overwriting(done: tuple[Path, Result], model: Path) -> None:
    folder = done[0]
    before = {name: (folder / name).read_bytes() for name in FILES}
    refused = run(folder, model)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stdout == ""
    again = run(folder, model, "--overwrite")
    assert again.exit_code == 0, again.stderr
    assert {name: (folder / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("taken", FILES)
def test_whatever_is_there_is_refused_before_anything_is_written(taken: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    result = run(tmp_path, model)
    assert result.exit_code == 2
    assert taken in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_wrong_use(model: Path, tmp_path: Path) -> None:
    unknown = run(tmp_path / "a", "unnet")
    assert unknown.exit_code == 2
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file", model).exit_code == 1
    assert run(tmp_path / "no" / "folder", model).exit_code == 1
    assert run(tmp_path / "b", model, "--size", "3").exit_code == 2
    assert run(tmp_path / "b", model, "--gsd", "7").exit_code == 2
    assert not (tmp_path / "b").exists()


def test_write_town_alone(tmp_path: Path) -> None:
    town = draw_town((20, 600), 1.0, 3, crs="EPSG:4326")
    files = write_town(tmp_path / "new", town)
    with rasterio.open(files.scene) as src:
        assert (src.read() == town.image).all()
    with pytest.raises(OutputExistsError, match=r"scene\.tif exists"):
        write_town(tmp_path / "new", town)
    bytes_before = files.scene.read_bytes(), files.labels.read_bytes()
    write_town(tmp_path / "new", town, overwrite=True)
    assert (files.scene.read_bytes(), files.labels.read_bytes()) == bytes_before
    with pytest.raises(OutputError, match="cannot be made"):
        write_town(files.scene, town)


def test_a_town_without_a_single_building_is_written_too(tmp_path: Path) -> None:
    town = next(town for seed in range(200) if not len((town := draw_town((9, 9), 0.3, seed)).buildings))
    files = write_town(tmp_path, town)
    assert len(geopandas.read_file(files.labels, layer="buildings")) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from geoseg.cli.main import geoseg; geoseg(['demo', '--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'rasterio', 'dask', 'geopandas', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--gsd" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
