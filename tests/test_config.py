"""The configuration: strict, and every refusal names file, key and what was expected."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.config import (
    PALETTE,
    TRAINING_SEEDS,
    FolderSource,
    SceneSource,
    TownSource,
    TrainConfig,
    load_config,
    parse_change,
    resolve_path,
)
from geoseg.errors import ConfigError

WINDOW = "Expected a window [left, top, right, bottom]: whole numbers from 0, with left < right and top < bottom."


def write(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "optimizer: {lrr: 1}",
            "optimizer.lrr is no key that geoseg knows. Did you mean 'optimizer.lr'? Expected one of lr,",
        ),
        ("tile_sise: 3", "tile_sise is no key that geoseg knows. Did you mean 'tile_size'?"),
        ("lr: 3", "lr is no key that geoseg knows. Did you mean 'optimizer.lr'? Expected one of arch,"),
        ("1: 3", "1 is no key that geoseg knows. Expected one of arch,"),
        (
            "data: {sources: [{scene: a.tif, labels: b, trian: []}]}",
            "data.sources[0].trian is no key .*'data.sources[0].train'?",
        ),
        ("data: {sources: [{folder: a, class: tree}]}", "data.sources[0].class is no key"),
        ("classes: [{name: a}, {nam: b}]", "classes[1].name is missing. Expected a name without commas and colons."),
        ("classes: [{name: a}, {name: 'b:c'}]", "classes[1].name='b:c' has the wrong form. Expected a name without"),
        ("classes: [{name: a}, {name: b, color: red}]", "color='red' has the wrong form. Expected a colour such as"),
        ("classes: [a, b]", "classes[0]='a' is of the wrong kind. Expected the keys name, color."),
        (
            "classes: [{name: a}]",
            "classes=[{'name': 'a'}] has 1 entry. Expected a list of 2 to 254 classes, each with a name",
        ),
        ("classes: [{name: a}, {name: a}]", "has the name 'a' twice. Expected a list of 2 to 254 classes"),
        ("classes: [{name: a}, {name: A}]", "has the name 'a' twice. Expected a list of 2 to 254 classes"),
        ("data: {sources: [{synthetic: yes}]}", "data.sources[0].synthetic=True is no number. Expected a whole number"),
        (
            "classes: [{name: a}, {name: b, colr: red}]",
            "classes[1].colr is no key that geoseg knows. Did you mean 'classes[1].color'",
        ),
        ("optimizer: 3", "optimizer=3 is of the wrong kind. Expected the keys lr, name, schedule, warmup,"),
        ("optimizer: {lr: -1}", "optimizer.lr=-1 is out of range. Expected a number above 0."),
        ("optimizer: {lr: .nan}", "optimizer.lr=nan is not finite. Expected a number above 0."),
        ("optimizer: {lr: .inf}", "optimizer.lr=inf is not finite. Expected a number above 0."),
        ("optimizer: {ema: 1}", "optimizer.ema=1 is out of range. Expected a number from 0 to below 1."),
        ("epochs: 0", "epochs=0 is out of range. Expected a whole number of at least 1."),
        ("epochs: many", "epochs='many' is of the wrong kind. Expected a whole number of at least 1."),
        ("epochs: 1.5", "epochs=1.5 is of the wrong kind. Expected a whole number of at least 1."),
        ("batch_size:", "batch_size=None is of the wrong kind. Expected a whole number of at least 1."),
        ("tile_size: 31", "tile_size=31 is out of range. Expected a whole number from 32 to 4096."),
        ("augmentation: {flips: maybe}", "augmentation.flips='maybe' is of the wrong kind. Expected true or false."),
        ("arch_args: {width: [1]}", "arch_args.width=[1] is of the wrong kind. Expected a whole number or a number or"),
        ("arch_args: 3", "arch_args=3 is of the wrong kind. Expected keys and values."),
        ("loss: 3", "loss=3 is of the wrong kind. Expected text."),
        ("data: {sources: [{folder: a, split: test}]}", "split='test' is of the wrong kind. Expected train or val."),
        (
            "data: {sources: [{folder: a, values: {x: b}}]}",
            "values={'x': 'b'} is of the wrong kind. Expected class names by",
        ),
        (
            "data: {sources: [{folder: a, bands: [[1]]}]}",
            "bands[0]=[1] is of the wrong kind. Expected a whole number or text.",
        ),
        ("optimizer: {name: adm}", "optimizer.name='adm' is of the wrong kind. Expected adamw, adam or sgd."),
        ("optimizer: {schedule: linear}", "Expected cosine, one_cycle, poly or constant."),
        ("optimizer: {encoder_lr: 2}", "optimizer.encoder_lr=2 is out of range. Expected a number above 0, up to 1."),
        ("optimizer: {freeze_encoder: -1}", "optimizer.freeze_encoder=-1 is out of range. Expected a whole number of"),
        ("optimizer: {lr: yes}", "optimizer.lr=True is no number. Expected a number above 0."),
        ("patience: yes", "patience=True is no number. Expected a whole number of at least 1."),
        ("tile_size: on", "tile_size=True is no number. Expected a whole number from 32 to 4096."),
        (
            "data: {split: block}",
            "data.split='block' is of the wrong kind. Expected blocks, scene, manifest or random.",
        ),
        ("data: {gap: 1.5}", "data.gap=1.5 is of the wrong kind. Expected a whole number of at least 0."),
        ("data: {balance: 2}", "data.balance=2 is out of range. Expected a number from 0 to 1."),
        ("data: {balance: 0.7, hard: 0.5}", "data.balance=0.7 and data.hard=0.5 are more than all samples. Expected"),
        ("data: {cache: 3}", "data.cache=3 is of the wrong kind. Expected a path."),
        (
            "augmentation: {rotation: 200}",
            "augmentation.rotation=200 is out of range. Expected a number from 0 to 180.",
        ),
        ("class_weights: fast", "class_weights='fast' is of the wrong kind. Expected a rule (inverse, sqrt_inverse,"),
        ("class_weights: {road: -1}", "class_weights={'road': -1} is of the wrong kind. Expected a rule"),
        (
            "class_weights: {raod: 2}",
            "class_weights names class 'raod'. Did you mean 'road'? Expected some of background,",
        ),
        ("heads: {x: 3}", "heads.x=3 is of the wrong kind. Expected the keys task, classes, loss, weight, unit."),
        (
            "heads: {x: {task: foo}}",
            "heads.x.task='foo' is of the wrong kind. Expected multiclass, binary, multilabel or",
        ),
        ("heads: {x: {classes: [{name: a, colr: red}, b]}}", "Did you mean 'heads.x.classes[0].color'?"),
        ("heads: {x: {classes: [3, b]}}", "heads.x.classes[0]=3 is of the wrong kind. Expected text or the keys name,"),
        ("heads: {x: {classes: [a, a]}}", "heads.x={'classes': ['a', 'a']} has one class twice."),
        (
            "heads: {x y: {classes: [a, b]}}",
            "heads has the key 'x y', which is of the wrong form. Expected names of letters,",
        ),
        (
            "data: {sources: [{folder: a, targets: {h: 'h/*'}}]}",
            "data.sources[0].targets names head 'h'. Expected none: there is only one head.",
        ),
        ("arch: a\narch: b", "line 2 has the key 'arch' a second time"),
        ("data: {sources: [{folder: a, folder: b}]}", "line 1 has the key 'folder' a second time"),
        ("loss: &a x\narch: *a", "line 2 has an alias"),
        ("loss: [", "is no YAML"),
        ("- 1", "holds a list. Expected keys and values"),
        ("? [1]\n: 2", "key"),
        ("arch: !!python/object/apply:os.system [ls]", "is no YAML: could not determine a constructor"),
        (
            "data: {sources: [{scenery: a.tif}]}",
            "data.sources[0].* names no source. Expected one of the keys scene, folder",
        ),
        ("data: {sources: 3}", "data.sources=3 is of the wrong kind. Expected a list."),
        ("data: {sources: [{scene: a.tif}]}", "data.sources[0].labels is missing. Expected a path."),
        ("data: {sources: [{scene: a.tif, labels: b, class: tree}]}", "names class 'tree'. Expected one of background"),
        ("data: {sources: [{folder: a, known: [raod]}]}", "names class 'raod'. Did you mean 'road'? Expected one of"),
        ("data: {sources: [{folder: a, values: {7: tree}}]}", "names class 'tree'"),
        *(
            (
                f"data: {{sources: [{{scene: a, labels: b, val: [{box}]}}]}}",
                f"data.sources[0].val[0]={box} {how}. {WINDOW}",
            )
            for box, how in [
                ("[5, 1, 5, 9]", "is empty"),
                ("[1, 5, 9, 3]", "is empty"),
                ("[5, 1, 9]", "has 3 entries"),
                ("[5, 1, 9, 9, 9]", "has 5 entries"),
                ("[-5, 1, 5, 9]", "is out of range"),
                ("['a', 1, 5, 9]", "is of the wrong kind"),
                ("5", "is of the wrong kind"),
            ]
        ),
        (
            "augmentation: {zoom: [2, 1]}",
            "augmentation.zoom=[2, 1] runs downwards. Expected two numbers above 0, [low,",
        ),
        ("augmentation: {zoom: [2]}", "augmentation.zoom=[2] has 1 entry. Expected two numbers"),
        ("augmentation: {zoom: [-1, 2]}", "augmentation.zoom=[-1, 2] is out of range. Expected two numbers"),
        ("data: {sources: [{synthetic: 1, gsd_range: [2, 1]}]}", "data.sources[0].gsd_range=[2, 1] runs downwards"),
        (
            f"data: {{sources: [{{synthetic: 1, seed: {TRAINING_SEEDS}}}]}}",
            "data.sources[0].seed=1000000 is out of range",
        ),
        (f"data: {{sources: [{{synthetic: 2, seed: {TRAINING_SEEDS - 1}}}]}}", "seeds of data.sources[0]"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path, text, said):
    import re

    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    pattern = re.escape(said).replace(re.escape(".*"), ".*")
    assert re.search(pattern, message), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "typed", "said"),
    [
        ({"optimizer.lr": -1}, "--lr -1", "--lr -1 is out of range. Expected a number above 0."),
        (
            {"epochs": "x"},
            "--set epochs=x",
            "--set epochs=x is of the wrong kind. Expected a whole number of at least 1.",
        ),
        ({"classes": [{"name": "a"}]}, "--classes a", "--classes a has 1 entry. Expected a list of 2 to 254 classes,"),
        ({"lrr": 1}, "--set lrr=1", "--set lrr=1 is no key that geoseg knows. Expected one of arch,"),
        (
            {"optimizer": {"lr": 0}},
            "--set ...",
            "--set ...: optimizer.lr=0 is out of range. Expected a number above 0.",
        ),
        ({"epochs.x": 1}, "--set epochs.x=1", "--set epochs.x=1: epochs={'x': 1} is of the wrong kind."),
    ],
)
def test_what_was_typed_is_said_in_place_of_file_and_key(tmp_path, changes, typed, said):
    (key,) = changes
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "seed: 3"), changes, typed={key: typed})
    assert str(caught.value).startswith(said)
    with pytest.raises(ConfigError, match=str(tmp_path)):  # what is wrong in the file is still the file's
        load_config(write(tmp_path, "seed: -3"), {"optimizer.lr": 1}, typed={"optimizer.lr": "--lr 1"})


def test_every_rule_can_be_said(tmp_path):
    """No value of a wrong kind is answered with anything but plain words."""

    def keys(model, prefix=""):
        for name, field in model.model_fields.items():
            yield prefix + name
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                yield from keys(field.annotation, f"{prefix}{name}.")

    for key in keys(TrainConfig):
        with pytest.raises(ConfigError) as caught:
            load_config(None, {key: object()})
        assert "another value" not in str(caught.value)
        assert "is of the wrong kind. Expected " in str(caught.value)


def test_an_alias_bomb_costs_nothing(tmp_path):
    bomb = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    with pytest.raises(ConfigError, match="alias"):
        load_config(write(tmp_path, bomb))


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(tmp_path / name)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "some.yaml").write_bytes(b"\xff\xfe\x00arch")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "some.yaml")


def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no YAML"):
        load_config(write(tmp_path, "a: " + "[" * 20_000))


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "# nothing\n")) == load_config(None) == TrainConfig()


def test_exponents_are_numbers_as_people_write_them(tmp_path):
    assert load_config(write(tmp_path, "optimizer: {lr: 1e-3}")).optimizer.lr == 1e-3


def test_changes_win_over_the_file(tmp_path):
    path = write(tmp_path, "epochs: 3\noptimizer: {lr: 0.1, clip: 2}")
    config = load_config(path, {"optimizer.lr": 0.5, "data.val": 0.1})
    assert (config.epochs, config.optimizer.lr, config.optimizer.clip, config.data.val) == (3, 0.5, 2, 0.1)


def test_defaults_hold_where_neither_file_nor_change_speaks(tmp_path):
    defaults = {
        "arch": "segnet",
        "arch_args": {"width": 8},
        "classes": [{"name": "a"}, {"name": "b"}],
        "task": "binary",
    }
    config = load_config(None, {"arch_args.norm": True}, defaults=defaults)
    assert (config.arch, config.arch_args, config.task) == ("segnet", {"width": 8, "norm": True}, "binary")
    assert config.class_names == ("a", "b")
    file = load_config(write(tmp_path, "arch: unet\nclasses: [{name: x}, {name: y}, {name: z}]"), defaults=defaults)
    assert (file.arch, file.class_names, file.task) == ("unet", ("x", "y", "z"), "multiclass")
    heads = {"heads": {"h": {"task": "regression"}}}
    assert load_config(None, heads, defaults=defaults).class_names == TrainConfig().class_names
    assert load_config(None, {"classes": [{"name": "x"}, {"name": "y"}]}, defaults=heads).heads == {}
    assert load_config(None, {"heads.h.weight": 2}, defaults=heads).heads["h"].weight == 2
    assert heads == {"heads": {"h": {"task": "regression"}}}


def test_a_change_below_a_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"epochs\.x: epochs has no keys"):
        load_config(write(tmp_path, "epochs: 3"), {"epochs.x": 1})


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("optimizer.lr=1e-3", ("optimizer.lr", 1e-3)),
        ("loss=focal:1,dice:2", ("loss", "focal:1,dice:2")),
        ("augmentation.zoom=[1, 2]", ("augmentation.zoom", [1, 2])),
    ],
)
def test_changes_are_read_as_yaml(text, pair):
    assert parse_change(text) == pair


@pytest.mark.parametrize("text", ["", "lr", "=3"])
def test_a_change_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="Expected key=value"):
        parse_change(text)


def test_paths_start_from_the_folder_of_the_file_unless_a_variable_does(tmp_path, monkeypatch):
    text = """
data:
  sources:
    - {scene: a.tif, labels: /b.gpkg, labelled_area: "${GEOSEG_DATA}/c.gpkg"}
    - {folder: tiles, images: "img/*", labels: "lab/{stem}.png", targets: {h: "h/{stem}.tif"}}
    - {scene: [a.tif, /b.tif], labels: c.gpkg, targets: {h: h.tif}}
  cache: pixels
pretrained: vgg.pth
heads: {h: {task: regression}, surface: {classes: [a, b]}}
"""
    config = load_config(write(tmp_path, text))
    assert (config.pretrained, config.data.cache) == (str(tmp_path / "vgg.pth"), str(tmp_path / "pixels"))
    scene, folder, dates = config.data.sources
    assert isinstance(dates, SceneSource)
    assert (dates.scenes, dates.targets) == ((str(tmp_path / "a.tif"), "/b.tif"), {"h": str(tmp_path / "h.tif")})
    assert folder.targets == {"h": "h/{stem}.tif"}
    assert isinstance(scene, SceneSource)
    assert (scene.scene, scene.labels) == (str(tmp_path / "a.tif"), "/b.gpkg")
    assert isinstance(folder, FolderSource)
    assert (folder.folder, folder.labels) == (str(tmp_path / "tiles"), "lab/{stem}.png")
    monkeypatch.setenv("GEOSEG_DATA", "/here")
    assert resolve_path(scene.labelled_area) == Path("/here/c.gpkg")
    monkeypatch.delenv("GEOSEG_DATA")
    with pytest.raises(ConfigError, match="GEOSEG_DATA, which is not set"):
        resolve_path(scene.labelled_area)


def test_classes_without_a_colour_take_one_from_the_palette():
    config = load_config(None, {"classes": [{"name": "a"}, {"name": "b", "color": "#00ff00"}]})
    assert config.class_names == ("a", "b")
    assert config.class_colors == (PALETTE[0], "#00ff00")


def test_towns_for_training_keep_clear_of_the_demo(tmp_path):
    (source,) = load_config(write(tmp_path, "data: {sources: [{synthetic: 2}]}")).data.sources
    assert isinstance(source, TownSource)
    assert source.seed + source.synthetic < TRAINING_SEEDS


@given(st.text(max_size=60))
def test_any_text_gives_a_config_or_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ConfigError):
        load_config(path)
