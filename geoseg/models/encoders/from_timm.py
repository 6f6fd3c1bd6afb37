"""Encoders of the timm library (Wightman 2019, https://github.com/huggingface/pytorch-image-models), by its names."""

from importlib import import_module

from torch import Tensor

from geoseg.errors import UsageError
from geoseg.models.encoders.encoder import Encoder


class TimmEncoder(Encoder):
    """A convolutional network of timm that gives its features.

    Its context counts as unbounded: such networks may pool globally, or pad by the size of the image. Weights are
    fresh; timm's own come with timm's own means.
    """

    bounded = False

    def __init__(self, name: str, in_channels: int, *, dilated: int = 0) -> None:
        """Build with timm's first weights.

        Args:
            name: timm's name of the network, such as `efficientnet_b0`.
            in_channels: Channels of the image, at least 1.
            dilated: How many of the last stages have dilation in place of stride, where timm can do it.

        Raises:
            UsageError: If timm is not installed, or has no such network that gives features.
        """
        super().__init__()
        try:
            timm = import_module("timm")
        except ImportError as err:
            raise UsageError(
                f"encoder='timm:{name}' needs timm, which cannot be imported ({err}). Install it: "
                "pip install 'geoseg[timm]'."
            ) from err
        # Other names make timm fetch or read a description of the network: a checkpoint must not be able to.
        if not name.replace("_", "").replace(".", "").isalnum() or not timm.is_model(name):
            raise UsageError(f"encoder='timm:{name}' is unknown. Expected a name of timm.list_models().")
        options = {"output_stride": 32 >> dilated} if dilated else {}
        try:
            self.body = timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels, **options)
        except Exception as err:  # of any kind: each of timm's networks refuses in its own way
            raise UsageError(
                f"encoder='timm:{name}' cannot be built ({err}). Expected one of "
                "timm.list_models() that gives features."
            ) from err
        self.name, self.in_channels = f"timm:{name}", in_channels
        self.channels = list(self.body.feature_info.channels())
        self.strides = list(self.body.feature_info.reduction())

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of each stage, the finest first."""
        return list(self.body(image))
