"""How parameters move: groups, optimizers, schedules, the running average."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.config import OptimizerConfig
from geoseg.models import MODELS, build_model
from geoseg.training.optim import Average, encoder_of, freeze, make_optimizer, parameter_groups, rate

SMALL = {"unet3d": {"width": 2, "dates": 2, "depth": 2}, "fcn8s": {"width": 2}}


def build(arch: str) -> nn.Module:
    args = SMALL.get(arch, {"width": 4})
    return build_model(arch, args, in_channels=6 if arch == "unet3d" else 3, classes=2)


# --- the encoder


@pytest.mark.parametrize("arch", MODELS)
def test_every_architecture_has_an_encoder_that_sees_the_image_first(arch):
    with torch.device("meta"):
        network = build(arch)
    encoder = encoder_of(network)
    first = next(p for p in network.parameters() if p.ndim > 1)
    assert any(first is parameter for parameter in encoder.parameters())
    inside, outside = set(encoder.parameters()), set(network.parameters()) - set(encoder.parameters())
    assert inside
    assert outside


@pytest.mark.parametrize("arch", ["unet", "fcn_resnet50"])
def test_a_frozen_encoder_stays_as_it_is_and_the_rest_learns(arch):
    torch.manual_seed(0)
    network = build(arch)
    optimizer = make_optimizer(network, OptimizerConfig())
    freeze(network, True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    part = "encoder." if arch == "unet" else "backbone."
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(part) for name in changed)  # running statistics included
    freeze(network, False)
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items() if part in name)


def test_running_statistics_stay_while_the_rest_of_normalisation_learns():
    torch.manual_seed(0)
    network = build("unet")
    optimizer = make_optimizer(network, OptimizerConfig())
    freeze(network, False, norm=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert {name for name, _ in network.named_parameters()} <= changed | {"head.bias"}


def test_groups_have_each_parameter_once_and_leave_biases_and_norms_alone():
    network = build("unet")
    groups = parameter_groups(network, OptimizerConfig(weight_decay=0.1, encoder_lr=0.25))
    assert sorted((group["weight_decay"], group["factor"]) for group in groups) == [
        (0.0, 0.25), (0.0, 1.0), (0.1, 0.25), (0.1, 1.0),
    ]  # fmt: skip
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(map(id, network.parameters()))
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


# --- optimizers


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"name": "adamw", "weight_decay": 0.1}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        ({"name": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        (
            {"name": "sgd", "weight_decay": 0.1, "momentum": 0.8},
            lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.1, momentum=0.8, nesterov=True),
        ),
        ({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}, lambda p: torch.optim.SGD(p, lr=0.01)),
    ],
)
def test_optimizers_are_those_of_torch(settings, plain):
    one, other = (nn.Linear(4, 3, bias=False) for _ in range(2))
    other.load_state_dict(one.state_dict())
    optimizers = make_optimizer(one, OptimizerConfig(lr=0.01, **settings)), plain(other.parameters())
    for step in range(3):
        for network, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            image = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
            network(image).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(one.weight, other.weight)


# --- schedules


def curve(steps: int, **settings) -> list[float]:
    return [rate(step, steps, OptimizerConfig(**settings)) for step in range(steps + 1)]


def test_the_rate_climbs_in_a_line_and_falls_along_a_cosine():
    rates = curve(100, warmup=0.1)
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rate(0, 1, OptimizerConfig(warmup=0.0)) == 1


def test_poly_and_constant():
    rates = curve(100, warmup=0.1, schedule="poly")
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[55] == pytest.approx(0.5**0.9)
    assert rates[100] == 0
    assert curve(100, warmup=0.1, schedule="constant")[10:] == [1.0] * 91


@pytest.mark.parametrize("steps", [10, 37, 200])
def test_one_cycle_is_that_of_torch(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    wanted = []
    for _ in range(steps):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(wanted) < steps:
            schedule.step()
    assert curve(steps, schedule="one_cycle")[:steps] == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_a_rate(schedule, steps):
    rates = curve(steps, schedule=schedule, warmup=0.05)
    assert all(0 <= value <= 1 for value in rates)
    assert max(rates[:steps]) > 0


# --- the average


def test_the_average_follows_the_network_and_its_statistics():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, 0.9)
    with torch.no_grad():
        network[0].weight.fill_(5.0)
        network[1].running_mean.fill_(3.0)
        network[1].num_batches_tracked.fill_(7)
    for _ in range(300):
        average.update(network)
    torch.testing.assert_close(average.network[0].weight, torch.full((2, 2), 5.0))
    torch.testing.assert_close(average.network[1].running_mean, torch.full((2,), 3.0))
    assert int(average.network[1].num_batches_tracked) == 7


def test_one_update_moves_by_one_minus_the_decay_and_further_when_young():
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.75)
    start = float(average.network.weight.detach())
    with torch.no_grad():
        network.weight.add_(1)
    average.update(network)  # 1 / 10
    assert float(average.network.weight) == pytest.approx(start + 0.9)
    average.steps = 1000
    average.update(network)
    assert float(average.network.weight) == pytest.approx(start + 0.9 + 0.1 * 0.25)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_share_of_the_start_is_kept(decay):
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average = Average(network, decay, 0.25)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(8)
    for _ in range(300):
        average.update(network)
    for name, value in average.network.state_dict().items():
        moved = 6.0 if value.is_floating_point() else 8
        torch.testing.assert_close(value, before[name] + moved)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_without_decay_the_average_is_the_network():
    network = nn.Linear(2, 2)
    average = Average(network, 0.0)
    average.update(network)
    assert average.network is network
