"""The language model learns to add; its options work; Ctrl-C keeps what it has reached."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MakeExample = Callable[..., Any]
FREQUENCIES_ALONE = 3.614
"""Bits per character."""


def bits(report: str) -> tuple[float, float]:
    """Bits per character before and after training."""
    (found,) = re.findall(r"bits per character +(\S+) before, (\S+) after", report)
    return float(found[0]), float(found[1])


def logged(tag: str) -> dict[int, float]:
    """Values by step."""
    accumulator = EventAccumulator("logs/language_model/version_0", size_guidance={"scalars": 0})
    accumulator.Reload()
    return {event.step: event.value for event in accumulator.Scalars(tag)}


def test_learns(example: MakeExample) -> None:
    report = example("language_model").run("--epochs", "2")
    before, after = bits(report)
    assert before > FREQUENCIES_ALONE
    assert after < 0.5 * FREQUENCIES_ALONE
    assert f"{FREQUENCIES_ALONE} from frequencies alone, 1.107 is the best possible" in report

    rates = logged("lr-AdamW/pg1")
    assert rates == logged("lr-AdamW/pg2")
    assert list(rates) == list(range(9, 2 * 141, 10))
    rising = {step: 4e-3 * (step + 1) / 50 for step in (9, 19, 29, 39, 49)}
    assert {step: rates[step] for step in rising} == pytest.approx(rising)
    falling = list(rates.values())[4:]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 1e-4


@pytest.mark.slow
def test_options(example: MakeExample) -> None:
    arguments = ("--ema", "--precision", "bf16-mixed", "--accumulate", "4", "--lr", "8e-3", "--epochs", "1")
    before, after = bits(example("language_model").run(*arguments))
    assert after < 0.6 * before
    checkpoint = torch.load("logs/language_model/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 71  # 282 batches of 32
    assert checkpoint["hyper_parameters"]["lr"] == 8e-3
    average, latest = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert average.keys() == latest.keys()
    assert not average["places"].equal(latest["places"])
    decays = [group["weight_decay"] for group in checkpoint["optimizer_states"][0]["param_groups"]]
    assert decays == [0.1, 0.0]


@pytest.mark.slow
def test_training_ends_when_all_sums_are_right(example: MakeExample, monkeypatch: pytest.MonkeyPatch) -> None:
    script = example("language_model")
    monkeypatch.setattr(script.module.LanguageModel, "forward", knows_sums)
    report = script.run("--epochs", "3")
    assert "sums that are right  100.0% before, 100.0% after training" in report
    assert len(logged("train_loss")) == 14  # one epoch of 141 steps, of which every tenth is logged


def knows_sums(model: Any, text: torch.Tensor) -> torch.Tensor:
    """In place of the network: logits of one who can add."""
    digits = torch.cat([text, text.new_zeros(len(text), 9 - text.shape[1])], dim=1)
    total = digits[:, 0] * 10 + digits[:, 1] + digits[:, 3] * 10 + digits[:, 4]
    answer = torch.stack([total // 100, total // 10 % 10, total % 10, torch.full_like(total, 12)], dim=1)
    following = torch.cat([digits[:, 1:6], answer], dim=1)[:, : text.shape[1]]
    unused = sum(parameter.sum() * 0 for parameter in model.parameters())
    return torch.nn.functional.one_hot(following, 13) * 20.0 + unused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # each run has its own version of the logs
def test_ctrl_c_keeps_what_is_reached(
    example: MakeExample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = example("language_model")
    model_class = script.module.LanguageModel

    def interrupt(model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 20:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(model_class, "on_train_batch_end", interrupt)
        with pytest.raises(SystemExit) as ended:
            script.run("--epochs", "1")
    assert ended.value.code == 130
    last = "logs/language_model/version_0/checkpoints/last.ckpt"
    assert f"Stopped. Go on with: --resume {last}\n" in capsys.readouterr().out
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] == 10

    seen: list[int] = []
    monkeypatch.setattr(model_class, "on_train_batch_start", lambda model, batch, batch_idx: seen.append(batch_idx))
    script.run("--epochs", "1", "--resume", last)
    assert seen == list(range(21, 282))


def test_ctrl_c_before_the_first_step(
    example: MakeExample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = example("language_model")
    monkeypatch.setattr(script.module.LanguageModel, "on_fit_start", lambda model: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as ended:
        script.run()
    assert ended.value.code == 130
    assert "Stopped before there was anything to keep." in capsys.readouterr().out


def test_wrong_arguments(example: MakeExample, capsys: pytest.CaptureFixture[str]) -> None:
    script = example("language_model")
    with pytest.raises(SystemExit) as ended:
        script.run("--epoch5", "3")
    assert ended.value.code == 2
    assert "unrecognized arguments: --epoch5 3" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Precision 'fp7' is invalid"):
        script.run("--precision", "fp7")
