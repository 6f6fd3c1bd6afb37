"""`geoseg losses`: the table, one loss, JSON, refusals."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from geoseg.cli.losses import losses
from geoseg.losses import ADVICE, LOSSES, REGRESSION


def run(*args, code=0):
    result = CliRunner().invoke(losses, args)
    assert result.exit_code == code, result.output
    return result


def test_table():
    printed = run().stdout
    names = [line.split()[0] for line in printed.splitlines() if line]
    assert [name for name in names if name in LOSSES] == list(LOSSES)
    assert printed.index("Losses of classes:") < printed.index("lovasz_sort") < printed.index("Losses of numbers:")
    for when, mixture in ADVICE:
        assert f"{when} " in printed
        assert mixture in printed
    assert max(map(len, printed.splitlines())) <= 140


@pytest.mark.parametrize("name", LOSSES)
def test_one(name):
    lines = dict(line.split(maxsplit=1) for line in run(name).stdout.splitlines())
    assert list(lines) == ["name", "kind", "summary", "formula", "source", "options", "when"]
    assert lines["kind"] == ("regression" if name in REGRESSION else "classes")


def test_options_are_written_as_in_a_mixture():
    printed = run("focal_tversky").stdout
    assert "alpha=0.3, beta=0.7, gamma=1.333, smooth=0, average=macro, per_image=false, class_weights=none" in printed
    assert "arXiv:1810.07842" in printed


def test_json():
    said = json.loads(run("--json").stdout)
    assert [item["name"] for item in said["losses"]] == list(LOSSES)
    assert said["advice"][0] == {"when": ADVICE[0][0], "loss": ADVICE[0][1]}
    assert json.loads(run("tversky", "--json").stdout)["options"]["beta"] == 0.7


def test_unknown_name():
    refused = run("focl", code=2)
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: loss='focl' is unknown. Did you mean 'focal'?")


def test_help_imports_nothing_heavy():
    program = (
        "import sys\nfrom geoseg.cli.losses import losses\n"
        "losses(['--help'], standalone_mode=False)\n"
        "sys.exit(' '.join({'torch', 'rasterio', 'dask', 'pydantic'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "--json" in result.stdout
