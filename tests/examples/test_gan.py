"""The GAN learns what digits look like, shows them, and goes on from a checkpoint."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MakeExample = Callable[..., Any]


def events(version: int = 0) -> EventAccumulator:
    """What a run has written for TensorBoard."""
    accumulator = EventAccumulator(f"logs/gan/version_{version}", size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def values(accumulator: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in accumulator.Scalars(tag)]


@pytest.mark.slow
def test_generated_digits_are_like_real_ones(example: MakeExample) -> None:
    report = example("gan").run("--epochs", "10")
    pixels = re.findall(r"mean (\S+), std (\S+)\n", report)
    (real_mean, real_std), (fake_mean, fake_std) = [[float(number) for number in pair] for pair in pixels]
    assert (real_mean, real_std) == (0.307, 0.377)
    assert abs(fake_mean - real_mean) < 0.05
    assert abs(fake_std - real_std) < 0.08
    (distance,) = re.findall(r"energy distance of the two +(\S+)\n", report)
    assert float(distance) < 0.3  # untrained: 3.6

    written = events()
    for name in ("generator_loss", "discriminator_loss"):
        losses = values(written, name)
        assert len(losses) == 10 * 44 // 10  # epochs, batches of one, batches between two rows
        assert all(0.1 < loss < 5 for loss in losses)
    assert len(values(written, "val_distance")) == 10
    images = written.Images("samples")
    assert [image.step for image in images] == list(range(10))
    assert (images[0].height, images[0].width) == (8 * 8, 8 * 8)  # 64 digits


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each run has its own version of the logs
def test_a_checkpoint_goes_on_where_it_was(example: MakeExample) -> None:
    gan = example("gan")
    gan.run("--epochs", "2")
    last = "logs/gan/version_0/checkpoints/last.ckpt"
    gan.run("--epochs", "4", "--resume", last)
    assert [image.step for image in events(version=1).Images("samples")] == [2, 3]
    before, after = (torch.load(last.replace("0", version), weights_only=True) for version in "01")
    assert (before["global_step"], after["global_step"]) == (2 * 44 * 2, 4 * 44 * 2)
    rates = [state["_last_lr"][0] for state in after["lr_schedulers"]]
    assert rates == [0, 0]  # all four epochs are over
    assert before["state_dict"]["sample_noise"].equal(after["state_dict"]["sample_noise"])


def test_energy_distance_is_zero_for_images_of_one_kind(example: MakeExample) -> None:
    distance = example("gan").module.energy_distance
    torch.manual_seed(0)
    images = torch.rand(1000, 1, 8, 8)
    assert abs(distance(images[:500], images[500:])) < 0.01
    assert distance(images[:500], images[500:] * 0.5) > 0.5


def test_clipping_is_felt(example: MakeExample, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny ``clip_norm`` stops Adam, whose epsilon then outweighs the gradients, from learning."""
    gan = example("gan")
    monkeypatch.setattr(gan.module.GAN, "on_fit_start", lambda model: model.hparams.update(clip_norm=1e-12))
    (distance,) = re.findall(r"energy distance of the two +(\S+)\n", gan.run("--epochs", "2"))
    assert float(distance) > 2  # otherwise 0.7


@pytest.mark.parametrize("zipped", [True, False], ids=["zipped", "plain"])
@pytest.mark.parametrize("prefixes", [["train", "t10k"], ["t10k"]], ids=["both parts", "one part"])
def test_mnist_files(example: MakeExample, prefixes: list[str], zipped: bool, tmp_path: Path) -> None:
    for prefix in prefixes:
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", torch.full((10, 28, 28), 51), zipped)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", torch.arange(10), zipped)
    train, test = example("gan").module.load_images(str(tmp_path), torch.Generator().manual_seed(0))
    assert (len(train), len(test)) == ((10, 10) if len(prefixes) == 2 else (8, 2))
    image, label = test[1]
    assert image.shape == (1, 28, 28)
    assert math.isclose(image.max(), 0.2, rel_tol=1e-6)
    assert label in range(10)


def test_no_mnist_files(example: MakeExample, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"No MNIST files .* in {tmp_path}"):
        example("gan").module.load_images(str(tmp_path), torch.Generator())


def write_idx(path: Path, values: torch.Tensor, zipped: bool) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    content = bytes([0, 0, 8, values.ndim]) + sizes + values.byte().numpy().tobytes()
    if zipped:
        path, content = path.with_name(f"{path.name}.gz"), gzip.compress(content)
    path.write_bytes(content)
