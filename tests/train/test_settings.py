"""TrainSettings: legal values, plain round trip."""

import json

import pytest

from edgeks.errors import ConfigError
from edgeks.train.settings import TrainSettings


def test_plain_round_trip():
    settings = TrainSettings(
        epochs=10, schedule="milestones", milestones=(3, 6), augment=("crop", "flip"), optimizer="sgd", threads=1
    )
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs is 0; legal: a whole number, 1 to 100000"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"batch_size": "64"}, "batch_size is '64'"),
        ({"lr": float("nan")}, "lr is nan; legal: a number from 1e-09 to 1000"),
        ({"lr": 0}, "lr is 0"),
        ({"momentum": 1}, "momentum is 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; legal: adamw, sgd"),
        ({"schedule": ["cosine"]}, "schedule is ('cosine',); legal: cosine, milestones"),
        ({"device": "tpu"}, "device is 'tpu'; legal: auto, cpu, cuda"),
        ({"augment": ["crop", "rotate"]}, "augment is ('crop', 'rotate'); legal: a list of crop, resized_crop, flip"),
        ({"augment": "crop"}, "augment is 'crop'; legal: a list"),
        ({"schedule": "milestones"}, "milestones is []; legal: milestones for the schedule 'milestones'"),
        ({"milestones": [2]}, "schedule is 'cosine' and milestones is [2]"),
        ({"schedule": "milestones", "milestones": [3, 2]}, "legal: a rising list of epochs, each 1 or more"),
        ({"schedule": "milestones", "milestones": [2, 5]}, "epochs is 5, and milestones go to 5; legal: milestones be"),
        ({"validation": 0.9}, "validation is 0.9; legal: a number from 0 to 0.5"),
        ({"threads": 0}, "threads is 0; legal: a whole number, 1 to 1024"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 1}, "unknown key 'learning_rate'; legal: epochs, batch_size, lr"),
        ({"qat": "lsq"}, "qat is 'lsq'; legal: off, learned, moving_average"),
        ({"frozen_norm_epochs": 99}, "frozen_norm_epochs is 99; legal: a whole number, 0 to"),
        ({"positive_scales": 1}, "positive_scales is 1; legal: true, false"),
    ],
)
def test_illegal_settings(changed, message):
    with pytest.raises(ConfigError) as caught:
        TrainSettings.from_dict({"epochs": 5, **changed})
    assert message in str(caught.value)


def test_epochs_is_required():
    with pytest.raises(ConfigError, match="epochs is missing"):
        TrainSettings.from_dict({"lr": 0.1})
