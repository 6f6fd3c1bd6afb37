"""Outputs: checked first, together in the end, or not at all."""

import os
import stat

import pytest

from geoseg.errors import OutputError, OutputExistsError, UsageError
from geoseg.outputs import Outputs


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(outputs, **texts):
    for name, text in texts.items():
        name, _, side = name.partition("__")
        outputs.staged(name, f".{side}" if side else "").write_text(text)


def run(paths, during=lambda: None, overwrite=False, **texts):
    """A run that writes, lives through what happens `during` it, and ends."""
    with Outputs(paths, overwrite=overwrite) as outputs:
        write(outputs, **texts)
        during()
        outputs.commit()


def fail_with(error):
    raise error


def test_all_appear_together(tmp_path):
    with Outputs({"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}) as outputs:
        write(outputs, labels="A", labels__aux="side", vectors="B")
        assert not {"a.tif", "b.gpkg", "a.tif.aux"} & set(names(tmp_path))
        assert outputs.staged("labels").suffix == ".tif"  # drivers go by it
        outputs.commit()
    assert names(tmp_path) == ["a.tif", "a.tif.aux", "b.gpkg"]
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["A", "side", "B"]


def test_the_main_file_comes_last(tmp_path, monkeypatch):
    order = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda source, target: (order.append(target.name), link(source, target)))
    with Outputs({"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}) as outputs:
        write(outputs, labels="A", labels__aux="side", vectors="B")
        outputs.commit()
    assert sorted(order[:2]) == ["a.tif.aux", "b.gpkg"]
    assert order[2:] == ["a.tif"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_a_failure(tmp_path, error):
    paths = {"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}
    with pytest.raises(error):
        run(paths, lambda: fail_with(error), labels="A", labels__aux="side")
    assert names(tmp_path) == []


def test_nothing_is_replaced_unasked(tmp_path):
    (tmp_path / "a.tif").write_text("old")
    with pytest.raises(OutputExistsError, match=r"a\.tif exists.*--overwrite") as refused:
        Outputs({"vectors": tmp_path / "b.gpkg", "labels": tmp_path / "a.tif"})
    assert refused.value.exit_code == 2
    assert (tmp_path / "a.tif").read_text() == "old"


def test_overwriting_replaces_only_at_the_end(tmp_path):
    (tmp_path / "a.tif").write_text("old")
    paths = {"labels": tmp_path / "a.tif"}
    with pytest.raises(RuntimeError):
        run(paths, lambda: fail_with(RuntimeError), overwrite=True, labels="new")
    assert (tmp_path / "a.tif").read_text() == "old"
    with Outputs(paths, overwrite=True) as outputs:
        write(outputs, labels="new")
        assert (tmp_path / "a.tif").read_text() == "old"
        outputs.commit()
    assert (tmp_path / "a.tif").read_text() == "new"
    assert names(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("late", ["a.tif", "a.tif.aux", "b.gpkg"])
def test_a_name_taken_during_the_run_is_not_replaced_and_nothing_else_appears(tmp_path, late):
    paths = {"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}
    with pytest.raises(OutputExistsError, match="appeared during the run"):
        run(paths, lambda: (tmp_path / late).write_text("mine"), labels="A", labels__aux="side", vectors="B")
    assert names(tmp_path) == [late]
    assert (tmp_path / late).read_text() == "mine"


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "dots", "folder link"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_no_output(tmp_path, how, overwrite):
    scene = tmp_path / "scene.tif"
    scene.write_text("pixels")
    output = tmp_path / "other.tif"
    if how == "same":
        output = scene
    elif how == "symlink":
        output.symlink_to(scene)
    elif how == "hardlink":
        output.hardlink_to(scene)
    elif how == "dots":
        output = tmp_path / ".." / tmp_path.name / "scene.tif"
    else:
        (tmp_path / "link").symlink_to(tmp_path)
        output = tmp_path / "link" / "scene.tif"
    before = names(tmp_path)
    with pytest.raises(OutputExistsError, match="is the input") as refused:
        Outputs({"labels": tmp_path / "free.tif", "vectors": output}, inputs=[scene], overwrite=overwrite)
    assert refused.value.exit_code == 2
    assert names(tmp_path) == before
    assert scene.read_text() == "pixels"


def test_urls_as_inputs_are_no_files(tmp_path):
    Outputs({"labels": tmp_path / "a.tif"}, inputs=["https://example.org/a.tif"])


@pytest.mark.parametrize("second", ["a.tif", "./a.tif", "link/a.tif"])
def test_two_outputs_are_two_files(tmp_path, second):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="two outputs"):
        Outputs({"labels": tmp_path / "a.tif", "confidence": tmp_path / second})


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_file_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "folder.tif").mkdir()
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "dangling.tif").symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    for name in before:
        with pytest.raises(OutputExistsError):
            Outputs({"labels": tmp_path / name}, overwrite=overwrite)
    assert names(tmp_path) == before


def test_folders_that_cannot_be_written_to(tmp_path):
    with pytest.raises(OutputError, match="does not exist"):
        Outputs({"labels": tmp_path / "missing" / "a.tif"})
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Outputs({"labels": tmp_path / "file" / "a.tif"})
    with pytest.raises(OutputError):
        Outputs({"labels": tmp_path / ("x" * 300 + ".tif")})


def test_a_folder_that_is_read_only(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write anywhere
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(OutputError, match="not writable"):
        Outputs({"labels": closed / "a.tif"})


def test_names_of_any_length_that_the_file_system_takes(tmp_path):
    path = tmp_path / ("x" * 251 + ".tif")
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes shorter names only")
    path.unlink()
    try:
        outputs = Outputs({"labels": path})
    except OutputError:
        return  # refused now, not at the end
    with outputs:
        write(outputs, labels="A")
        outputs.commit()
    assert path.read_text() == "A"


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Outputs({"labels": tmp_path / "a.tif"}) as outputs:
        write(outputs, labels="A")
        outputs.commit()
    assert names(tmp_path) == ["a.tif"]
    with pytest.raises(OutputExistsError):
        run({"labels": tmp_path / "b.tif"}, lambda: (tmp_path / "b.tif").write_text("mine"), labels="B")
    assert (tmp_path / "b.tif").read_text() == "mine"


def test_the_users_file_mode_is_kept(tmp_path):
    old = os.umask(0o027)
    try:
        with Outputs({"labels": tmp_path / "a.tif"}) as outputs:
            write(outputs, labels="A")
            outputs.commit()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.tif").stat().st_mode) == 0o640


def test_the_leftovers_of_a_killed_run_go_with_the_next(tmp_path):
    first = Outputs({"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}, run="one")
    write(first, labels="half of", vectors="B")  # and then it is killed
    with Outputs({"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}, run="one") as outputs:
        assert names(tmp_path) == []
        write(outputs, labels="A")
        outputs.commit()
    assert names(tmp_path) == ["a.tif"]


class Killed(BaseException):
    """Nobody tidies after it."""


@pytest.mark.parametrize("placed", [0, 1, 2, 3])
def test_killed_while_files_are_put_in_place(tmp_path, monkeypatch, placed):
    paths, texts = {"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"}, ["A", "side", "B"]
    link, done = os.link, []

    def dying_link(*args):
        if len(done) == placed:
            raise Killed
        done.append(link(*args))

    def dying_unlink(*_, **__):
        raise Killed

    first = Outputs(paths, run="one")
    write(first, **{"labels": "A", "labels__aux.xml": "side", "vectors": "B"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", dying_link)
        patch.setattr(type(tmp_path), "unlink", dying_unlink)
        with pytest.raises(Killed):
            first.commit()
    there = {name for name in names(tmp_path) if not name.startswith(".")}
    assert len(there) == placed
    assert ("a.tif" in there) == (placed == 3)
    for name in there:
        with pytest.raises(OutputExistsError, match="exists"):  # to another run they are files like any
            Outputs({"labels": tmp_path / name}, run="two")
    with Outputs(paths, run="one") as outputs:
        assert names(tmp_path) == []
        write(outputs, **{"labels": "A", "labels__aux.xml": "side", "vectors": "B"})
        outputs.commit()
    assert names(tmp_path) == ["a.tif", "a.tif.aux.xml", "b.gpkg"]
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == texts


def test_two_runs_at_once_do_not_write_to_one_file(tmp_path):
    runs = [Outputs({"vectors": tmp_path / "a.gpkg"}, run=run) for run in ("one", "two")]
    assert runs[0].staged("vectors") != runs[1].staged("vectors")


@pytest.mark.parametrize("side", [".aux.xml", ".ovr", ".msk"])
def test_what_lies_beside_an_earlier_raster_does_not_become_part_of_the_new_one(tmp_path, side):
    stale = tmp_path / f"a.tif{side}"
    stale.write_text("of an earlier raster")
    with pytest.raises(OutputExistsError, match=r"a\.tif\S+ exists.*--overwrite"):
        Outputs({"labels": tmp_path / "a.tif"})
    run({"labels": tmp_path / "a.tif"}, overwrite=True, labels="A")
    assert names(tmp_path) == ["a.tif"]
    run({"labels": tmp_path / "a.tif"}, overwrite=True, labels="B", labels__aux="side")
    assert names(tmp_path) == ["a.tif", "a.tif.aux"]


def test_stale_side_files_stay_when_the_run_fails(tmp_path):
    for name in ("a.tif", "a.tif.ovr"):
        (tmp_path / name).write_text("old")
    with pytest.raises(RuntimeError):
        run({"labels": tmp_path / "a.tif"}, lambda: fail_with(RuntimeError), overwrite=True, labels="new")
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["old", "old"]


def test_files_that_libraries_put_beside_temporary_ones_go(tmp_path):
    with Outputs({"vectors": tmp_path / "a.gpkg"}) as outputs:
        write(outputs, vectors="A")
        staged = outputs.staged("vectors")
        staged.with_name(staged.name + "-journal").write_text("half")
        outputs.commit()
    assert names(tmp_path) == ["a.gpkg"]


def test_nothing_is_made_in_checking(tmp_path):
    Outputs({"labels": tmp_path / "a.tif", "vectors": tmp_path / "b.gpkg"})
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.access("/proc", os.F_OK), reason="needs a file system that takes no files, even from root")
def test_a_file_system_that_takes_no_files(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        Outputs({"labels": tmp_path / "a.tif", "vectors": "/proc/geoseg.gpkg"})


def test_names_that_gdal_cannot_be_told_are_refused_first(tmp_path):
    with pytest.raises(OutputError, match="UTF-8"):
        Outputs({"labels": tmp_path / os.fsdecode(b"\xe9.tif")})
