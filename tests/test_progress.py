"""What a run tells of its epochs."""

import pytest

from geoseg.training.progress import Epoch


def epoch(metric: str, value: float | None) -> Epoch:
    return Epoch(
        number=1,
        of=2,
        loss=1.0,
        terms={"dice": 0.5, "height.huber": 0.2},
        lr=0.1,
        iou={},
        mean_iou=None,
        shares={"dice": 1.0},
        further={},
        samples_per_s=1.0,
        seconds=1.0,
        saved=False,
        metrics={"score": 0.4},
        metric=metric,
        value=value,
    )


@pytest.mark.parametrize("metric", ["score", "iou_building", "height.r2", "recall_road", "kappa"])
def test_of_scores_the_highest_is_the_best(metric):
    assert epoch(metric, 0.6).is_better_than(0.5)
    assert not epoch(metric, 0.4).is_better_than(0.5)
    assert not epoch(metric, 0.5).is_better_than(0.5)


@pytest.mark.parametrize("metric", ["loss", "val_loss", "ece", "height.rmse", "height.mae", "dice", "height.huber"])
def test_of_losses_their_terms_and_errors_the_lowest_is_the_best(metric):
    assert epoch(metric, 0.4).is_better_than(0.5)
    assert not epoch(metric, 0.6).is_better_than(0.5)


def test_of_biases_the_nearest_to_nothing_is_the_best():
    assert epoch("height.bias", -0.1).is_better_than(0.5)
    assert epoch("height.bias", 0.1).is_better_than(-0.5)
    assert not epoch("height.bias", -0.6).is_better_than(0.5)


def test_without_a_value_only_the_first_epoch_is_better():
    assert epoch("score", None).is_better_than(None)
    assert epoch("score", 0.1).is_better_than(None)
    assert not epoch("score", None).is_better_than(0.1)
