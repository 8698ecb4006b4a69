"""The examples under Lightning, one import changed: every number that they log and print is the same."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

LIBRARIES = ("pytorch_lightning", "raylight")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("gan", ["--epochs=2"]), pytest.param("language_model", ["--epochs=1", "--ema"], marks=pytest.mark.slow)],
)
def test_same_numbers(example: Callable[..., Any], name: str, arguments: list[str]) -> None:
    reports = []
    for library in LIBRARIES:
        with warnings.catch_warnings():
            if library == "pytorch_lightning":
                warnings.simplefilter("ignore")
                logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
            printed = example(name, library).run("--logdir", library, *arguments)
        reports.append(re.findall(r"^(?:pixels|energy|bits|sums|such).*", printed, re.MULTILINE))
    assert reports[0] == reports[1]
    assert len(reports[0]) == 3

    theirs, ours = (logged(f"{library}/{name}/version_0") for library in LIBRARIES)
    assert ours.keys() == theirs.keys()
    for tag in theirs:
        assert ours[tag] == pytest.approx(theirs[tag], rel=1e-6), tag


def logged(folder: str) -> dict[str, list[float]]:
    """What a run has written for TensorBoard: steps and values by tag; of images the bytes."""
    accumulator = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {
        tag: [x for each in accumulator.Scalars(tag) for x in (each.step, each.value)] for tag in tags["scalars"]
    }
    images = {tag: [x for each in accumulator.Images(tag) for x in each.encoded_image_string] for tag in tags["images"]}
    return {**scalars, **images}
