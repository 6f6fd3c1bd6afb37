"""Where a run starts from: what is kept of a checkpoint of other bands, classes or heads, and what is refused."""

import inspect
import logging

import pytest
import torch
from checkpoints import CLASSES, write_checkpoint

from geoseg.checkpoint import ClassInfo, Head, Header, load_checkpoint, save_checkpoint
from geoseg.config import load_config
from geoseg.errors import UsageError
from geoseg.models import MODELS, build_model
from geoseg.training.origins import match_bands
from geoseg.training.samples import Statistics
from geoseg.training.start import _axes, check_start, checkpoint_keys, start

RGB = ("red", "green", "blue")
NAMES = ("background", "building", "road")


def config_of(*names, **changes):
    named = {"classes": [{"name": name} for name in names]} if names else {}
    return load_config(None, {"arch": "unet", "arch_args": {"width": 2, "depth": 1}} | named | changes)


def own(bands, mean=110.0, std=40.0):
    return Statistics((mean,) * len(bands), (std,) * len(bands), ((0.0, 255.0),) * len(bands))


def network_of(begun, config, bands):
    channels = sum(head.channels for head in begun.heads.values())
    network = build_model(config.arch, config.arch_args, in_channels=len(bands), classes=channels)
    network.load_state_dict(begun.state_dict)
    return network.eval()


def picture(bands, seed=0):
    return torch.randn(1, bands, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def said():
    """What is logged, as "level message"."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(f"{record.levelname} {record.getMessage()}")

    logger = logging.getLogger("geoseg")
    before, handler = logger.level, Handler(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def rgb(tmp_path):
    return write_checkpoint(tmp_path / "rgb.safetensors")


# --- the same


def test_the_same_bands_and_classes_are_taken_over_as_they_are(rgb, said):
    config = config_of(*NAMES)
    begun = start(rgb, config, RGB, own(RGB))
    given = load_checkpoint(rgb)
    assert all(torch.equal(begun.state_dict[name], tensor) for name, tensor in given.state_dict.items())
    assert begun.normalisation.mean == given.header.mean
    assert begun.normalisation.std == given.header.std
    assert begun.normalisation.value_range == own(RGB).value_range
    assert said == [f"INFO init={rgb}: all bands, classes and weights are taken over."]


def test_keys_of_a_checkpoint_make_a_run_that_fits_it(rgb):
    config = load_config(None, checkpoint_keys(str(rgb)))
    check_start(rgb, config)
    assert config.class_names == NAMES


# --- bands


@pytest.mark.parametrize(
    ("theirs", "ours", "origins"),
    [
        (RGB, RGB, [0, 1, 2]),
        (RGB, ("Blue", "RED", "green"), [2, 0, 1]),
        (RGB, (*RGB, "nir"), [0, 1, 2, None]),
        ((*RGB, "nir"), ("nir", "red"), [3, 0]),
        (RGB, ("band_1", "band_2", "band_3"), [0, 1, 2]),
        (RGB, ("band_1", "band_2"), [None, None]),
        (("band_1", "band_2"), ("vv", "vh"), [0, 1]),
        (("vv", "vh"), ("red", "green"), [None, None]),
        (("red", "nir"), ("red", "nir", "red", "nir"), [0, 1, 0, 1]),
        (("red", "nir", "red", "nir"), ("red", "nir"), [0, 1]),
        (("t1_red", "t2_red"), ("t2_red", "t1_red", "t3_red"), [1, 0, 0]),
        (("red", "nir"), ("2024-05-01_red", "2024-05-01_nir", "2024-07-01_red"), [0, 1, 0]),
    ],
)
def test_bands_go_by_name_and_date(theirs, ours, origins):
    assert match_bands(theirs, ours) == origins


def test_bands_in_another_order_give_the_same_answer(rgb):
    config, bands = config_of(*NAMES), ("blue", "red", "green")
    begun = start(rgb, config, bands, own(bands))
    image = picture(3)
    found = network_of(begun, config, bands)(image[:, [2, 0, 1]])
    torch.testing.assert_close(found, load_checkpoint(rgb).build()(image))


@pytest.mark.parametrize(
    ("bands", "kernels"),
    [
        ((*RGB, "nir"), lambda r, g, b: (r, g, b, 0 * r)),
        (("pan",), lambda r, g, b: (r + g + b,)),
        (("nir", "red"), lambda r, g, b: (g + b, r)),
        (("blue", "red"), lambda r, g, b: (b + g / 2, r + g / 2)),
        (RGB * 2, lambda r, g, b: (r / 2, g / 2, b / 2) * 2),
        (("swir", "nir", "blue", "vv"), lambda r, g, b: ((r + g) / 3, (r + g) / 3, b, (r + g) / 3)),
        (("w", "x", "y", "z"), lambda r, g, b: ((r + g + b) / 4,) * 4),
    ],
)
def test_kernels_of_bands_that_are_gone_are_inherited(rgb, bands, kernels):
    config = config_of(*NAMES)
    begun = start(rgb, config, bands, own(bands))
    name = "encoder.levels.0.0.weight"
    expected = torch.stack(kernels(*load_checkpoint(rgb).state_dict[name].unbind(1)), 1)
    torch.testing.assert_close(begun.state_dict[name], expected)
    one = picture(1)  # in every band
    found = network_of(begun, config, bands)(one.expand(-1, len(bands), -1, -1))
    torch.testing.assert_close(found, load_checkpoint(rgb).build()(one.expand(-1, 3, -1, -1)))


def test_a_new_band_changes_nothing_at_first_and_is_learnt(rgb):
    config, bands = config_of(*NAMES), ("nir", *RGB)
    network = network_of(start(rgb, config, bands, own(bands)), config, bands)
    image = picture(4)
    torch.testing.assert_close(network(image), load_checkpoint(rgb).build()(image[:, 1:]))
    network(image)[:, 0].square().mean().backward()
    assert network.encoder.levels[0][0].weight.grad[:, 0].abs().max() > 0


def test_new_bands_have_the_runs_own_normalisation_and_known_ones_the_checkpoints(rgb, said):
    bands = ("nir", *RGB)
    begun = start(rgb, config_of(*NAMES), bands, own(bands))
    assert begun.normalisation.mean == (110.0, 100.0, 100.0, 100.0)
    assert begun.normalisation.std == (40.0, 50.0, 50.0, 50.0)
    assert said == [f"WARNING init={rgb}: bands red, green, blue kept, nir new."]


@pytest.mark.parametrize(
    ("mean", "std", "wins"), [(299, 50, False), (301, 50, True), (100, 201, True), (100, 12, True)]
)
def test_values_of_another_kind_are_normalised_by_themselves(rgb, said, mean, std, wins):
    bands = (*RGB, "nir")
    begun = start(rgb, config_of(*NAMES), bands, own(bands, float(mean), float(std)))
    assert begun.normalisation.mean == ((mean,) * 4 if wins else (100, 100, 100, mean))
    assert ("values of another kind" in said[0]) == bool(wins)


# --- classes and heads


def test_classes_go_by_name(rgb, said):
    config = config_of("background", "water", "road", "building", "tree")
    begun = start(rgb, config, RGB, own(RGB))
    rows = load_checkpoint(rgb).state_dict["head.weight"]
    for index, row in {0: 0, 2: 2, 3: 1}.items():
        assert torch.equal(begun.state_dict["head.weight"][index], rows[row])
    fresh = begun.state_dict["head.weight"][[1, 4]]
    assert not torch.isin(fresh, rows).any()
    assert (begun.state_dict["head.bias"][[1, 4]] == 0).all()
    assert [item.name for item in begun.heads["main"].classes] == list(config.class_names)
    assert said == [f"WARNING init={rgb}: classes background, road, building kept, water, tree new."]
    again = start(rgb, config, RGB, own(RGB))
    assert torch.equal(again.state_dict["head.weight"], begun.state_dict["head.weight"])


def test_what_is_dropped_is_said_and_first_classes_go_together(rgb, said):
    begun = start(rgb, config_of("land", "road"), RGB, own(RGB))
    rows = load_checkpoint(rgb).state_dict["head.weight"]
    assert torch.equal(begun.state_dict["head.weight"], rows[[0, 2]])
    assert said == [f"WARNING init={rgb}: classes land, road kept, building dropped."]


@pytest.mark.parametrize("bands", [(*RGB, "nir"), ("blue", "red", "green"), ("red", "nir", "blue")])
def test_squares_of_pixels_go_with_their_band_and_class(tmp_path, bands):
    shuffled = {"width": 2, "depth": 1, "shuffle": 2}
    path = write_checkpoint(tmp_path / "shuffled.safetensors", more={"shuffle": 2})
    config = config_of("background", "road", "tree", arch_args=shuffled)
    begun = start(path, config, bands, own(bands))
    one = picture(1)  # in every band
    found = network_of(begun, config, bands)(one.expand(-1, len(bands), -1, -1))
    known = load_checkpoint(path).build()(one.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found[:, :2], known[:, [0, 2]])
    if "nir" not in bands:
        image = picture(3)
        order = [bands.index(name) for name in RGB]
        torch.testing.assert_close(
            network_of(begun, config, bands)(image)[:, :2], load_checkpoint(path).build()(image[:, order])[:, [0, 2]]
        )


def test_drawing_fresh_weights_leaves_the_random_state_alone(rgb):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    start(rgb, config_of("background", "tree"), RGB, own(RGB))
    assert torch.equal(torch.get_rng_state(), before)


HEADS = {
    "height": Head(task="regression", scale=3.0, offset=7.0, unit="m"),
    "kinds": Head(task="multilabel", classes=(ClassInfo(name="flat", color="#112233"), CLASSES[1])),
    "surface": Head(classes=CLASSES),
}


def test_heads_go_by_name_and_a_single_one_by_its_task(tmp_path, rgb, said):
    given = write_checkpoint(tmp_path / "heads.safetensors", heads=HEADS)  # channels: 1 + 2 + 3
    rows = load_checkpoint(given).state_dict["head.weight"]
    config = load_config(None, {"arch_args": {"width": 2, "depth": 1}, "heads": {
        "kinds": {"task": "multilabel", "classes": ["building", "round"]},
        "relief": {"task": "regression", "unit": "m"},
        "use": {"classes": ["background", "road"]},
        "depth": {"task": "regression", "unit": "cm"},
    }})  # fmt: skip
    begun = start(given, config, RGB, own(RGB))
    found = begun.state_dict["head.weight"]  # depth, kinds (2), relief, use (2)
    assert torch.equal(found[[1, 3, 4, 5]], rows[[2, 0, 3, 5]])
    assert not torch.isin(found[[0, 2]], rows).any()
    assert (begun.heads["relief"].scale, begun.heads["relief"].offset) == (3.0, 7.0)
    assert (begun.heads["depth"].scale, begun.heads["depth"].offset) == (1.0, 0.0)
    assert said == [
        f"WARNING init={given}: classes kinds.building, relief, use.background, use.road kept, depth, kinds.round new, "
        "kinds.flat, surface.building dropped."
    ]
    # And from one head to several.
    wider = start(rgb, config, RGB, own(RGB)).state_dict["head.weight"]
    assert torch.equal(wider[[4, 5]], load_checkpoint(rgb).state_dict["head.weight"][[0, 2]])


def test_heads_handed_in_keep_their_scale_where_they_are_new(rgb):
    config = load_config(None, {"arch_args": {"width": 2, "depth": 1}, "heads": {
        "height": {"task": "regression"}, "surface": {"classes": list(NAMES)},
    }})  # fmt: skip
    heads = {"height": Head(task="regression", scale=5.0, offset=2.0), "surface": Head(classes=CLASSES)}
    begun = start(rgb, config, RGB, own(RGB), heads)
    assert begun.heads == heads


def test_a_single_logit_is_its_second_class(tmp_path):
    head = Head(task="binary", classes=CLASSES[:2])
    given = write_checkpoint(tmp_path / "one.safetensors", heads={"main": head})
    row = load_checkpoint(given).state_dict["head.weight"]
    same = start(given, config_of("other", "building", task="binary"), RGB, own(RGB))
    assert torch.equal(same.state_dict["head.weight"], row)
    other = start(given, config_of("background", "road", task="binary"), RGB, own(RGB))
    assert not torch.isin(other.state_dict["head.weight"], row).any()


# --- dates


def write_dates(path, names, *, output="pixel", dates=2):
    classes = tuple(ClassInfo(name=name, color="#112233") for name in names)
    slices = output == "slice"
    heads = {f"d{at}": Head(classes=classes) for at in range(dates)} if slices else {"main": Head(classes=classes)}
    args = {"dates": dates, "width": 2, "depth": 1, "output": output}
    torch.manual_seed(0)
    channels = len(names) * (dates if slices else 1)
    network = build_model("unet3d", args, in_channels=2 * dates, classes=channels)
    header = Header(
        arch="unet3d", arch_args=args, bands=("red", "nir") * dates, mean=(100.0,) * 2 * dates,
        std=(50.0,) * 2 * dates, value_range=((0.0, 255.0),) * 2 * dates, dtype="uint8", heads=heads, cell_side=64,
        stride=2, receptive_radius=20,
    )  # fmt: skip
    save_checkpoint(path, header, network.state_dict(), half=False)
    return path


def test_a_stack_of_dates_keeps_its_kernels_over_time(tmp_path):
    given = write_dates(tmp_path / "dates.safetensors", NAMES)
    args = {"dates": 2, "width": 2, "depth": 1}
    bands = ("nir", "red", "swir") * 2
    begun = start(given, config_of("background", "road", arch="unet3d", arch_args=args), bands, own(bands))
    old, new = load_checkpoint(given).state_dict, begun.state_dict
    name = "encoder.0.0.weight"
    assert new[name].shape[1] == 3
    assert torch.equal(new[name][:, :2], old[name][:, [1, 0]])
    assert (new[name][:, 2] == 0).all()
    assert torch.equal(new["head.weight"], old["head.weight"][[0, 2]])


def test_one_answer_becomes_one_for_each_date(tmp_path):
    given = write_dates(tmp_path / "dates.safetensors", NAMES)
    args = {"dates": 2, "width": 2, "depth": 1, "output": "slice"}
    heads = {name: {"classes": ["background", "road", "tree"]} for name in ("may", "july")}
    bands = ("red", "nir") * 2
    config = load_config(None, {"arch": "unet3d", "arch_args": args, "heads": heads})
    new, old = start(given, config, bands, own(bands)).state_dict, load_checkpoint(given).state_dict
    assert torch.equal(new["head.weight"][:2], old["head.weight"][[0, 2]])
    assert len(new["head.weight"]) == 3


def test_answers_for_each_date_go_on(tmp_path):
    sliced = write_dates(tmp_path / "sliced.safetensors", NAMES, output="slice")
    args = {"dates": 2, "width": 2, "depth": 1, "output": "slice"}
    heads = {f"d{at}": {"classes": ["background", "road"]} for at in range(2)}
    bands = ("red", "nir") * 2
    config = load_config(None, {"arch": "unet3d", "arch_args": args, "heads": heads})
    new, old = start(sliced, config, bands, own(bands)).state_dict, load_checkpoint(sliced).state_dict
    assert torch.equal(new["head.weight"], old["head.weight"][[0, 2]])


def test_dates_whose_weights_have_other_shapes_are_refused(tmp_path):
    given = write_dates(tmp_path / "dates.safetensors", NAMES)
    args = {"dates": 1, "width": 2, "depth": 1}
    config = config_of(*NAMES, arch="unet3d", arch_args=args)
    with pytest.raises(UsageError, match=r"does not fit: tensor ups\.0\.weight has shape .* \(dates=1, width=2"):
        start(given, config, ("red", "nir"), own(("red", "nir")))


# --- architectures


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "resunet"}, "is of architecture 'unet', the run of 'resunet'. Expected the same."),
        ({"arch_args": {"width": 4, "depth": 1}}, "is a unet with width=2, the run's has width=4. Expected the same."),
        ({"arch_args": {"width": 2, "depth": 1, "norm": "none"}}, "with norm=batch, the run's has norm=none."),
        ({"arch_args": {"width": 2}}, "is a unet with depth=1, the run's has depth=4."),
    ],
)
def test_another_architecture_is_refused_with_both(rgb, changes, says):
    config = config_of(*NAMES, **changes)
    for refused in (lambda: check_start(rgb, config), lambda: start(rgb, config, RGB, own(RGB))):
        with pytest.raises(UsageError) as caught:
            refused()
        assert says in str(caught.value)
        assert str(rgb) in str(caught.value)


def test_arguments_left_out_are_the_defaults(tmp_path, rgb):
    check_start(rgb, config_of(*NAMES, arch_args={"width": 2, "depth": 1, "norm": "batch", "padding": "same"}))


@pytest.mark.parametrize("arch", MODELS)
def test_every_architecture_takes_other_bands_and_classes(arch, tmp_path):
    small = {"width": 2} if "width" in inspect.signature(MODELS[arch]).parameters else {}
    config = config_of(*NAMES, arch=arch, arch_args=small)
    axes = _axes(config)
    assert any(band for band, _ in axes.values())
    assert any(channel for _, channel in axes.values())
    assert all(len(band) + len(channel) <= 1 for band, channel in axes.values())
    network = build_model(arch, small, in_channels=3, classes=3)
    header = Header(
        arch=arch, arch_args=small, bands=RGB, mean=(100.0,) * 3, std=(50.0,) * 3, value_range=((0.0, 255.0),) * 3,
        dtype="uint8", heads={"main": Head(classes=CLASSES)}, cell_side=network.stride * 16, stride=network.stride,
        receptive_radius=100 if network.bounded else None,
    )  # fmt: skip
    save_checkpoint(tmp_path / "a.safetensors", header, network.state_dict(), half=False)
    bands = ("nir", "green", "red", "blue")
    fewer = config_of("background", "road", arch=arch, arch_args=small)
    begun = start(tmp_path / "a.safetensors", fewer, bands, own(bands))
    found = network_of(begun, fewer, bands)
    image = picture(4)
    expected = network.eval()(image[:, [2, 1, 3]])
    torch.testing.assert_close(found(image), expected[:, [0, 2]], atol=1e-4, rtol=1e-4)
