"""The command line as a whole: every --help at once and light, unknown names answered, wrong usage in one line."""

import logging
import resource
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from geoseg import __version__
from geoseg.cli.main import COMMANDS, geoseg
from geoseg.cli.options import GeosegCommand

HEAVY = {
    "torch", "rasterio", "dask", "distributed", "numpy", "lightning", "pydantic", "geopandas", "pandas", "pyogrio",
    "pyproj", "scipy", "shapely", "matplotlib", "safetensors", "rich",
}  # fmt: skip


def start(*args):
    """The program in a process of its own; its result, CPU seconds, and the top names of the modules it imported."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "geoseg.cli.main", *args], capture_output=True, text=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    done.stderr = "".join(x for x in done.stderr.splitlines(True) if not x.startswith("import time:"))
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, imported


def run(*args):
    return CliRunner().invoke(geoseg, args, prog_name="geoseg")


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_light(command):
    args = [command, "--help"] if command else ["--help"]
    done, _, imported = start(*args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["Usage: geoseg", *args[:-1]]))
    assert imported
    assert not imported & HEAVY


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_takes_less_than_half_a_second(command):
    args = [command, "--help"] if command else ["--help"]
    walls, cpus = [], []
    for _ in range(5):  # the machine may be busy with something else
        begun = time.perf_counter()
        _, cpu, _ = start(*args)
        walls.append(time.perf_counter() - begun)
        cpus.append(cpu)
        if walls[-1] < 0.5:
            return
    assert min(cpus) < 0.3, f"{min(walls):.2f} s"
    pytest.skip(f"the machine is too busy: {min(cpus):.2f} s of CPU took {min(walls):.2f} s")


def test_help_lists_every_command_with_what_it_does():
    text = run("--help").stdout
    for name, what in COMMANDS.items():
        assert name in text
        assert what in text
    for name in COMMANDS:
        assert run(name, "-h").stdout == run(name, "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_does(command):
    loaded = geoseg.get_command(None, command)
    assert loaded.name == command
    for parameter in loaded.params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name
    names = {name for parameter in loaded.params for name in parameter.opts}
    assert {"--debug", "-q", "-v"} <= names


def test_version():
    done = run("--version")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"geoseg {__version__}\n", "")
    done, _, imported = start("--version")
    assert done.stdout == f"geoseg {__version__}\n"
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("word", "near"),
    [("predct", "predict"), ("vectorise", "vectorize"), ("model", "models"), ("evaluation", "evaluate"), ("xyz", None)],
)
def test_an_unknown_command_is_answered_with_the_nearest(word, near):
    done = run(word, "--some", "thing")
    assert (done.exit_code, done.stdout) == (2, "")
    hint = f" Did you mean {near!r}?" if near else ""
    assert done.stderr == f"Error: no command {word!r}.{hint} See 'geoseg --help'.\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["predict"], "Missing argument 'SCENE...'"),
        (["predict", "a.tif", "--tile-sise", "5"], "--tile-size"),
        (["predict", "a.tif", "--precision", "int4"], "'int4' is not one of 'auto', 'float32'"),
        (["predict", "a.tif", "b.tif", "-o", "c.tif"], "--output names one file for 2 scenes"),
        (["predict", "a.tif", "--model"], "requires an argument"),
        (["predict", "a.tif", "--workers", "0"], "0"),
        (["models", "--jsn"], "--json"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(args, says):
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    assert says in done.stderr
    assert "Usage" not in done.stderr


def test_without_arguments_the_help_is_shown():
    done = run()
    assert done.exit_code == 2
    assert "Commands:" in done.output


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_have_exit_codes_of_their_own(signal, code, tmp_path):
    """A bare command with the shared command class: unwinds, says one word, exits as shells expect."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, sys, time, click\n"
        "from geoseg.cli.options import GeosegCommand\n"
        "@click.command(cls=GeosegCommand)\n"
        "def main():\n"
        "    try:\n"
        f"        os.kill(os.getpid(), signal.{signal})\n"
        "        time.sleep(10)\n"
        "    finally:\n"
        "        print('tidied')\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "tidied\n")
    assert done.stderr.count("\n") == 1


def test_the_notes_of_an_interrupt_are_said_in_the_same_line():
    @click.command(cls=GeosegCommand)
    def command():
        stop = KeyboardInterrupt()
        stop.add_note("Half of it is done.")
        raise stop

    done = CliRunner().invoke(command)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "Interrupted. Half of it is done.\n")


def test_the_log_leaves_its_records_alone(caplog):
    """Another handler of the same record finds it as it was."""

    @click.command(cls=GeosegCommand)
    def command():
        logger = logging.getLogger("geoseg")
        logger.addHandler(caplog.handler)
        try:
            logger.warning("something %s", "odd")
        finally:
            logger.removeHandler(caplog.handler)

    assert CliRunner().invoke(command).stderr == "Warning: something odd\n"
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "something odd")


def test_ctrl_c_while_a_command_is_imported(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, time, importlib\n"
        "from geoseg.cli import main\n"
        "def load(name):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(10)\n"
        "importlib.import_module = load\n"
        "main.main(['predict', 'a.tif'])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


def test_ctrl_c_before_a_command_is_known(monkeypatch):
    def parse_args(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(geoseg, "parse_args", parse_args)
    done = CliRunner().invoke(geoseg, ["models"])
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (ValueError(), 1)])
def test_ctrl_c_while_a_class_is_made(monkeypatch, stop, code):
    """Up to Python 3.11 that is a RuntimeError; another one is none of ours."""

    class Stops:
        def __set_name__(self, *_):
            raise stop

    monkeypatch.setattr(geoseg, "get_command", lambda *_: type("Made", (), {"stops": Stops()}))
    done = CliRunner().invoke(geoseg, ["models"])
    assert (done.exit_code, done.stderr) == (code, "Interrupted.\n" * (code == 130))


def test_a_bug_keeps_its_traceback_and_refused_input_shows_one_with_debug(tmp_path):
    assert "Traceback" not in run("predict", str(tmp_path / "missing.tif")).output
    done = run("predict", str(tmp_path / "missing.tif"), "--debug")
    assert type(done.exception).__name__ == "SceneError"
