"""`geoseg models`: both tables, one checkpoint, JSON, refusals."""

import json
import re
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from geoseg import builtin
from geoseg.checkpoint import ClassInfo, Head, Header, save_checkpoint
from geoseg.cli.main import geoseg
from geoseg.models import GOOD_FOR, MODELS, build_model
from geoseg.models.cost import macs_per_pixel


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package with one trained model."""
    folder = tmp_path / "weights"
    folder.mkdir()
    header = Header(
        arch="unet",
        arch_args={"width": 2, "depth": 1},
        bands=("red", "nir"),
        mean=(1.0, 2.0),
        std=(3.0, 4.0),
        value_range=((0.0, 255.0), (1.0, 9.0)),
        dtype="uint8",
        gsd=(0.1, 0.5, 0.3),
        heads={
            "main": Head(classes=(ClassInfo(name="land", color="#000000"), ClassInfo(name="water", color="#0000ff")))
        },
        cell_side=64,
        stride=2,
        receptive_radius=9,
        licence="CC BY 4.0",
        origin="a\nline \x1b[31mred",
        card="# Ponds\n\n| place | IoU |\n|---|---|\n| north\x1b[31m | 0.75 |\n",
        metrics={"iou": {"water": 0.75}},
    )
    torch.manual_seed(0)
    model = build_model("unet", in_channels=2, classes=2, width=2, depth=1)
    save_checkpoint(folder / "ponds.safetensors", header, model.state_dict())
    monkeypatch.setattr(builtin, "BUILTIN_FOLDER", folder)
    return folder


def run(*args, code=0):
    result = CliRunner().invoke(geoseg, ["models", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_tables(shipped):
    lines = run().stdout.splitlines()
    trained = next(line for line in lines if line.startswith("ponds"))
    for text in ("unet", "land, water", "0.1 to 0.5", "0.0", "CC BY 4.0"):
        assert text in trained
    architecture = next(line for line in lines if line.startswith("unet"))
    assert re.split(" {2,}", architecture) == ["unet", "1.9 M", "46", "16", "107", GOOD_FOR["unet"]]
    header = next(line for line in lines if line.startswith("name") and "stride" in line)
    assert header.index("stride") == architecture.index("16 ")
    assert "  unbounded  " in next(line for line in lines if line.startswith("deeplabv3plus"))


def test_nothing_shipped(shipped):
    (shipped / "ponds.safetensors").unlink()
    assert "none in this installation" in run().stdout


def test_json_of_everything(shipped):
    said = json.loads(run("--json").stdout)
    assert [model["name"] for model in said["models"]] == ["ponds"]
    assert said["models"][0]["parameters"] == sum(
        p.numel() for p in build_model("unet", in_channels=2, classes=2, width=2, depth=1).parameters()
    )
    architectures = {architecture.pop("name"): architecture for architecture in said["architectures"]}
    assert list(architectures) == list(MODELS) == list(GOOD_FOR)
    assert architectures["unet"] == {
        "parameters": 1_942_611,
        "macs_per_pixel": round(macs_per_pixel(build_model("unet", in_channels=3, classes=3))),
        "stride": 16,
        "receptive_radius": 107,
        "good_for": GOOD_FOR["unet"],
    }
    assert architectures["deeplabv3plus"]["receptive_radius"] is None
    assert all(
        architecture["good_for"] and len(architecture["good_for"]) < 60 for architecture in architectures.values()
    )


@pytest.mark.parametrize("name", MODELS)
def test_an_architecture_tells_its_arguments_and_its_paper(shipped, name):
    said = json.loads(run(name, "--json").stdout)
    assert said["name"] == name
    assert re.search(r" 20\d\d, .*arXiv:\d{4}\.\d{4,5}$", said["paper"])
    for argument, about in said["arguments"].items():
        build_model(
            name, in_channels=3, classes=2, width=1, **({argument: about["default"]} if argument != "width" else {})
        )
        assert about["about"].endswith(".")
    assert "width" in said["arguments"]
    rows = dict(line.split(maxsplit=1) for line in run(name).stdout.splitlines())
    assert rows["arguments.width"].startswith(f"{said['arguments']['width']['default']}: ")


def test_an_architecture_is_told_of_below_the_model_of_its_name(shipped):
    (shipped / "ponds.safetensors").rename(shipped / "unet.safetensors")
    said = json.loads(run("unet", "--json").stdout)
    assert said["arch_args"] == {"width": 2, "depth": 1}
    assert said["architecture"]["arguments"]["depth"]["default"] == 4
    assert "architecture.arguments.depth" in run("unet").stdout


@pytest.mark.parametrize("by", ["name", "path"])
def test_one_checkpoint(shipped, by):
    path = shipped / "ponds.safetensors"
    table, _, card = run("ponds" if by == "name" else path).stdout.partition("\n\n")
    said = dict(line.split(maxsplit=1) for line in table.splitlines())
    assert card == "# Ponds\n\n| place | IoU |\n|---|---|\n| north [31m | 0.75 |\n"
    assert said["path"] == str(path)
    assert said["bytes"] == str(path.stat().st_size)
    assert said["bands"] == "red, nir"
    assert said["value_range"] == "0.0..255.0, 1.0..9.0"
    assert said["gsd.best"] == "0.3"
    assert said["heads.main.classes"] == "land #000000, water #0000ff"
    assert said["metrics.iou.water"] == "0.75"
    assert said["thresholds"] == "-"
    assert said["origin"] == "a line  [31mred"


def test_json_of_one_checkpoint_is_its_header(shipped):
    said = json.loads(run("ponds", "--json").stdout)
    assert said["gsd"] == {"min": 0.1, "max": 0.5, "best": 0.3}
    assert said["origin"] == "a\nline \x1b[31mred"
    assert said["card"].startswith("# Ponds\n\n| place")
    assert said["metrics"] == {"iou": {"water": 0.75}}


def test_refusals(shipped, tmp_path):
    unknown = run("pond", code=2)
    assert unknown.stdout == ""
    assert unknown.stderr.startswith("Error: model='pond' is unknown. Did you mean 'ponds'?")
    (tmp_path / "x.safetensors").write_text("no checkpoint")
    refused = run(tmp_path / "x.safetensors", code=1)
    assert refused.stderr.count("\n") == 1
    assert "is no geoseg checkpoint" in refused.stderr


def test_damaged_built_in_model_is_named(shipped):
    path = shipped / "ponds.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in run(code=1).stderr


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom geoseg.cli.main import geoseg\n"
        "geoseg(['models', '--help'], standalone_mode=False)\n"
        "sys.exit(' '.join({'torch', 'rasterio', 'dask', 'pydantic'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--json" in result.stdout
