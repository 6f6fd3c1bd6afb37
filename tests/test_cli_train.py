"""`geoseg train`: what is printed where, and how wrong use is answered."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from labelled import write_boxes, write_raster
from test_configs import write_tiles

from geoseg.checkpoint import load_checkpoint
from geoseg.cli.main import geoseg
from geoseg.cli.train import _line, _report, _words
from geoseg.config import load_config

SMALL = [
    *("--tile-size", "32", "--batch-size", "2", "--epochs", "1", "--device", "cpu"),
    *("--set", "steps_per_epoch=2", "--set", "arch_args={width: 4, depth: 2}", "--set", "cell_side=64"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def tiles(tmp_path) -> Path:
    return write_tiles(tmp_path / "tiles")


def call(*args: object) -> Result:
    return CliRunner().invoke(geoseg, ["train", *map(str, args)])


def test_it_prints_the_checkpoint_on_stdout_and_epochs_on_stderr(tiles, tmp_path):
    run = tmp_path / "run"
    result = call(tiles, "-o", run, "--classes", "background,building", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(run / "model.safetensors")
    assert "epoch 1/1  loss " in result.stderr
    assert "building 0." in result.stderr
    assert load_checkpoint(run / "model.safetensors").header.cell_side == 64


def test_quiet_says_nothing_but_the_path(tiles, tmp_path):
    result = call(tiles, "-o", tmp_path / "run", "--classes", "background,building", "-q", *SMALL)
    assert result.output.strip() == str(tmp_path / "run" / "model.safetensors")


def test_flags_win_over_the_file_and_set_wins_over_flags(tiles, tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text(
        "classes: [{name: background}, {name: building}]\nepochs: 3\nseed: 4\noptimizer: {lr: 0.5, clip: 7}\n"
    )
    args = ("--config", file, "--lr", "0.25", "--loss", "focal:1,dice:2", "--val", "0.4", "--set", "seed=9")
    result = call(tiles, "-o", tmp_path / "run", *args, *SMALL)
    assert result.exit_code == 0, result.output
    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.epochs, config.seed, config.optimizer.lr, config.optimizer.clip) == (1, 9, 0.25, 7)
    assert (config.loss, config.data.val) == ("focal:1,dice:2", 0.4)
    assert config.data.sources[0].folder == str(tiles)


def test_a_scene_with_labels_and_area(tmp_path):
    import numpy as np

    image = write_raster(
        tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (3, 67, 101), dtype=np.uint8)
    )
    labels = write_boxes(tmp_path / "labels.geojson", [(10, 10, 20, 20), (85, 30, 95, 40)], ["building", "building"])
    area = write_boxes(tmp_path / "area.geojson", [(5, 5, 98, 60)])
    args = ("--labels", labels, "--labelled-area", area, "--class-field", "kind", "--classes", "background,building")
    result = call(image, "-o", tmp_path / "run", *args, *SMALL)
    assert result.exit_code == 0, result.output
    (source,) = load_config(tmp_path / "run" / "config.yaml").data.sources
    assert (source.scene, source.labelled_area, source.class_field) == (str(image), str(area), "kind")


def test_one_layer_of_the_labels_is_chosen_as_the_refusal_says(tmp_path):
    """The outline of what was drawn, in one file with the buildings, is no building."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 67, 101), dtype=np.uint8)
    image, labels = write_raster(tmp_path / "scene.tif", noise), tmp_path / "drawn.gpkg"
    drawn = {"buildings": [(10, 10, 20, 20), (85, 30, 95, 40)], "area": [(5, 5, 98, 60)]}
    for layer, boxes in drawn.items():
        gpd.read_file(write_boxes(tmp_path / "boxes.geojson", boxes)).to_file(labels, layer=layer)
    args = (image, "--labels", labels, "--classes", "background,building", "-o", tmp_path / "run", *SMALL)
    refused = call(*args)
    assert refused.exit_code == 1
    assert "layer 'area' does not say the classes" in refused.stderr
    assert "--layer" in refused.stderr
    chosen = call(*args, "--layer", "buildings")
    assert chosen.exit_code == 0, chosen.output
    (source,) = load_config(tmp_path / "run" / "config.yaml").data.sources
    assert source.layer == "buildings"


def test_invalid_polygons_are_fixed_as_the_refusal_says(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (3, 67, 101), dtype=np.uint8)
    image = write_raster(tmp_path / "scene.tif", noise)
    labels = write_boxes(tmp_path / "labels.geojson", [(10, 10, 20, 20), (85, 30, 95, 40), (60, 40, 80, 60)])
    layer = json.loads(labels.read_text())
    ring = layer["features"][2]["geometry"]["coordinates"][0]
    ring[1], ring[2] = ring[2], ring[1]  # a bow tie
    labels.write_text(json.dumps(layer))
    args = (image, "--labels", labels, "--classes", "background,building", "-o", tmp_path / "run", *SMALL)
    refused = call(*args)
    assert refused.exit_code == 1
    assert "holds 1 invalid polygons" in refused.stderr
    assert "--invalid-geometry fix|skip" in refused.stderr
    fixed = call(*args, "--invalid-geometry", "fix")
    assert fixed.exit_code == 0, fixed.output
    assert "1 invalid polygons fixed" in fixed.stderr
    (source,) = load_config(tmp_path / "run" / "config.yaml").data.sources
    assert source.invalid_geometry == "fix"


def test_dates_of_a_stack_train_a_network_of_dates_that_predicts_them(tmp_path):
    rng = np.random.default_rng(0)
    dates = [str(write_raster(tmp_path / f"{n}.tif", rng.integers(0, 255, (3, 67, 101), dtype=np.uint8))) for n in "ab"]
    labels = str(write_boxes(tmp_path / "labels.geojson", [(10, 10, 30, 30), (60, 20, 90, 50)]))
    args = ["train", *dates, "--labels", labels, "-o", str(tmp_path / "run"), "--arch", "unet3d", *SMALL]
    args += ["--classes", "background,building", "--set", "arch_args={width: 2, depth: 2, dates: 2}"]
    done = CliRunner().invoke(geoseg, [*args, "--stack"])
    assert done.exit_code == 0, done.stderr
    header = load_checkpoint(tmp_path / "run" / "model.safetensors").header
    assert len(header.bands) == 6
    out = str(tmp_path / "out.tif")
    model = str(tmp_path / "run" / "model.safetensors")
    done = CliRunner().invoke(geoseg, ["predict", *dates, "--stack", "-m", model, "-o", out])
    assert done.exit_code == 0, done.stderr
    with rasterio.open(out) as src:
        assert src.shape == (67, 101)
    done = CliRunner().invoke(geoseg, ["train", *dates, "--stack", "-o", str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "--labels" in done.stderr


def test_a_run_goes_on_from_a_checkpoint_with_its_classes(tiles, tmp_path):
    first = call(tiles, "-o", tmp_path / "a", "--classes", "background,building", *SMALL)
    second = call(
        tiles, "-o", tmp_path / "b", "--init", first.stdout.strip(), "--epochs", 1, "--set", "steps_per_epoch=1", "-q"
    )
    assert second.exit_code == 0, second.output
    header = load_checkpoint(tmp_path / "b" / "model.safetensors").header
    assert header.arch_args == {"width": 4, "depth": 2}
    assert len(header.classes) == 2


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "nothing to learn from"),
        (("--labels", "x.gpkg"), 2, "--labels without a scene"),
        (("{tiles}", "--labels", "x.gpkg"), 2, "is a folder, which has its own labels/"),
        (("missing.tif",), 2, "is no folder"),
        (("missing.tif", "--labels", "x.gpkg"), 1, "missing.tif"),
        (("{tiles}", "--arch", "unett"), 2, "Did you mean 'unet'?"),
        (("{tiles}", "--loss", "focall"), 2, "Did you mean 'focal'?"),
        (("{tiles}", "--init", "unett"), 2, "unett"),
        (("{tiles}", "--config", "missing.yaml"), 2, "missing.yaml is not a file"),
        (("{tiles}", "--set", "epochss=3"), 2, "--set epochss=3 is no key that geoseg knows. Did you mean 'epochs'?"),
        (("{tiles}", "--set", "lr=3"), 2, "Did you mean 'optimizer.lr'?"),
        (("{tiles}", "--set", "epochs=many"), 2, "--set epochs=many is of the wrong kind. Expected a whole number"),
        (("{tiles}", "--set", "epochs"), 2, "Expected key=value"),
        (("{tiles}", "--epochs", "0"), 2, "Error: --epochs 0 is out of range. Expected a whole number of at least 1."),
        (("{tiles}", "--epochs", "few"), 2, "'--epochs': 'few' is not a valid integer"),
        (("{tiles}", "--lr", "-1"), 2, "Error: --lr -1 is out of range. Expected a number above 0."),
        (("{tiles}", "--lr", "nan"), 2, "Error: --lr nan is not finite. Expected a number above 0."),
        (("{tiles}", "--batch-size", "0"), 2, "Error: --batch-size 0 is out of range. Expected a whole number of at"),
        (
            ("{tiles}", "--tile-size", "31"),
            2,
            "Error: --tile-size 31 is out of range. Expected a whole number from 32 to",
        ),
        (("{tiles}", "--val", "1"), 2, "Error: --val 1 is out of range. Expected a number from 0 to below 1."),
        (("{tiles}", "--seed", "-1"), 2, "Error: --seed -1 is out of range. Expected a whole number from 0 to"),
        (("{tiles}", "--classes", "building"), 2, "Error: --classes building has 1 entry. Expected a list of 2 to 254"),
        (("{tiles}", "--classes", "a,a"), 2, "Error: --classes a,a has the name 'a' twice."),
        (("{tiles}", "--classes", "background,,road"), 2, "has an empty entry"),
        (("{tiles}", "--pretrained"), 2, "UNet has no encoder with weights of its own. Expected a network on VGG"),
        (("{tiles}", "--pretrained", "--init", "unet"), 2, "pretrained=True and init=unet: a checkpoint brings all"),
        (("{tiles}", "--device", "gpu"), 1, "device='gpu'"),
        (("{tiles}", "--split", "block"), 2, "'block' is not one of 'blocks', 'scene', 'manifest', 'random'"),
        (("{tiles}", "--workers", "0"), 2, "'--workers': 0 is not in the range x>=1"),
        (("{tiles}", "--resume", "--overwrite"), 2, "--resume and --overwrite: one keeps the run that is there"),
        (("--resume",), 2, "holds no run to go on with. Expected its config.yaml, or DATA to begin."),
        (("{tiles}",), 1, "no training pixel is labelled 'road'"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(tiles, tmp_path, args, code, said):
    args = [str(arg).format(tiles=tiles) for arg in args]
    result = call(*args, "-o", tmp_path / "run")
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_best_checkpoint(tiles, tmp_path, number, code):
    args = [tiles, "-o", tmp_path / "run", "--classes", "background,building", *SMALL, "--epochs", "100000"]
    command = [sys.executable, "-m", "geoseg.cli.main", "train", *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/"):
                process.send_signal(number)
                break
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    word, _, kept = err.splitlines()[-1].partition(". ")
    assert word == {130: "Interrupted", 143: "Terminated"}[code]
    path = tmp_path / "run" / "model.safetensors"
    assert str(path) in kept
    assert load_checkpoint(path)
    resumed = call("-o", tmp_path / "run", "--resume", "--epochs", "1", "--device", "cpu")
    assert resumed.exit_code == 0, resumed.output
    assert resumed.stdout.strip() == str(path)


def test_the_default_of_an_option_is_in_its_help():
    text = " ".join(CliRunner().invoke(geoseg, ["train", "--help"]).stdout.split())
    assert "[default: those of --init, else background,building,road]" in text


def test_what_decides_a_run_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from geoseg.cli.main import geoseg\n"
        "try: geoseg(['train', '--lr', '-1', '--config', 'configs/unet.yaml', '-o', 'x'])\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'rasterio', 'lightning'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "Error: --lr -1 is out of range. Expected a number above 0.\n")


def test_a_run_goes_on_as_its_own_config_says(tiles, tmp_path):
    run = tmp_path / "run"
    first = call(tiles, "-o", run, "--classes", "background,building", *SMALL)
    assert first.exit_code == 0, first.output
    more = call("-o", run, "--resume", "--epochs", "2", "--device", "cpu")
    assert more.exit_code == 0, more.output
    assert "epoch 2/2" in more.stderr
    assert "epoch 1/" not in more.stderr
    assert load_config(run / "config.yaml").epochs == 2
    # The same call once more, as people repeat it, changes nothing.
    again = call(tiles, "-o", run, "--classes", "background,building", *SMALL, "--epochs", "2", "--resume")
    assert again.exit_code == 0, again.output
    assert "epoch" not in again.stderr
    other = call("-o", run, "--resume", "--lr", "0.5")
    assert other.exit_code == 2
    assert "optimizer.lr" in other.stderr


def test_values_are_learnt_from_label_rasters_of_numbers(tmp_path):
    tiles = write_tiles(tmp_path / "tiles", heights=True)
    config = tmp_path / "height.yaml"
    config.write_text("heads: {height: {task: regression, unit: m}}")
    done = call(tiles, "-o", tmp_path / "run", "--config", config, *SMALL)
    assert done.exit_code == 0, done.output
    assert "height.rmse " in done.stderr
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").header.heads["height"].unit == "m"
    scene = tiles / "images" / "tile_0.tif"
    args = ("--labels", tiles / "labels" / "tile_0.tif", "--val", 0)
    done = call(scene, "-o", tmp_path / "scene", "--config", config, *args, *SMALL)
    assert done.exit_code == 0, done.output
    (source,) = load_config(tmp_path / "scene" / "config.yaml").data.sources
    assert source.targets == {"height": str(tiles / "labels" / "tile_0.tif")}


def test_a_checkpoint_of_other_classes_goes_on_and_says_what_is_new(tiles, tmp_path):
    first = call(tiles, "-o", tmp_path / "a", "--classes", "background,building", *SMALL)
    (tmp_path / "some.yaml").write_text("epochs: 1\nsteps_per_epoch: 1\ncell_side: 64\n")  # names no architecture
    args = ("--config", tmp_path / "some.yaml", "--classes", "background,roof", *SMALL[:4], "--device", "cpu")
    done = call(tiles, "-o", tmp_path / "b", "--init", first.stdout.strip(), *args)
    assert done.exit_code == 0, done.output
    assert "classes background kept, roof new, building dropped." in done.stderr
    assert load_checkpoint(tmp_path / "b" / "model.safetensors").header.arch_args == {"width": 4, "depth": 2}
    wrong = call(tiles, "-o", tmp_path / "c", "--init", first.stdout.strip(), "--arch", "resunet")
    assert wrong.exit_code == 2
    assert "is of architecture 'unet', the run of 'resunet'" in wrong.stderr
    assert not (tmp_path / "c").exists()


def step(**changes):
    from geoseg.training.progress import Step

    said = {"epoch": 2, "epochs": 5, "number": 3, "of": 10, "loss": 0.51234, "samples_per_s": 12.34, "eta_s": 3725.0}
    return Step(**(said | {"metric": "iou_road", "best": 0.4567} | changes))


def test_what_stands_beside_the_bar():
    assert _words(step()) == "loss 0.5123  12.3 samples/s  best iou_road 0.4567  1:02:05 left"
    assert _words(step(best=None, eta_s=59.6)) == "loss 0.5123  12.3 samples/s  1:00 left"


def test_on_a_terminal_there_is_a_bar_below_the_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with _report(quiet=False) as (on_epoch, on_step):
        assert on_step is not None
        on_step(step())
        on_epoch(epoch())
        on_step(step(epoch=3))
    text = sys.stderr.getvalue()
    assert "epoch 2/5" in text
    assert "1:02:05 left" in text
    assert "epoch 2/5  loss 0.4000  IoU building 0.500" in text


def epoch(**changes):
    from geoseg.training.progress import Epoch

    said = {
        "number": 2, "of": 5, "loss": 0.4, "terms": {}, "lr": 1e-3, "iou": {"background": 0.9, "building": 0.5},
        "mean_iou": 0.5, "shares": {}, "further": {"height.rmse": 1.5, "height.r2": None}, "samples_per_s": 8.0,
        "seconds": 61, "saved": False, "metric": "iou_mean", "best": 0.625,
    }  # fmt: skip
    return Epoch(**(said | changes))


def test_the_line_of_an_epoch():
    line = "epoch 2/5  loss 0.4000  IoU building 0.500  height.rmse 1.5  8.0 samples/s  1:01"
    assert _line(epoch()) == f"{line}  best iou_mean 0.625"
    assert _line(epoch(saved=True)) == f"{line}  saved"
    assert _line(epoch(best=None)) == line
    assert _line(epoch(iou={}, further={})) == "epoch 2/5  loss 0.4000  8.0 samples/s  1:01  best iou_mean 0.625"


def test_an_existing_run_is_kept(tiles, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    result = call(tiles, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert [item.name for item in (tmp_path / "run").iterdir()] == ["precious"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from geoseg.cli.main import geoseg; geoseg(['train', '--help'], standalone_mode=False);"
        "heavy = {'torch', 'rasterio', 'dask', 'lightning', 'pydantic'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--labelled-area" in done.stdout
