"""Frozen and thawed modules: the same weights, rates and files, and a training that is resumed goes on as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

EPOCHS = 4

# the default leaves batch-norm layers in the optimizer when it freezes the backbone
pytestmark = pytest.mark.filterwarnings("ignore:The provided params to be frozen already exist:UserWarning")


def make(side: Any, scheduled: bool = False) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            del self.layer
            self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 4)))
            self.head = nn.Linear(4, 1)
            self.rates: list[Any] = []

        def forward(self, x: Any) -> Any:
            return self.head(torch.tanh(self.backbone(x)))

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            groups = self.trainer.optimizers[0].param_groups
            trained = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
            self.rates.append([[group["lr"] for group in groups], [len(group["params"]) for group in groups], trained])

        def configure_optimizers(self) -> Any:
            parameters = filter(lambda parameter: parameter.requires_grad, self.parameters())
            optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.5)
            return ([optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]) if scheduled else optimizer

        def train_dataloader(self) -> Any:
            return side.loader()

    return Model()


def layer_by_layer(side: Any) -> Any:
    """Thaws a part of the backbone at each epoch from 1 on."""

    class LayerByLayer(side.pl.callbacks.BaseFinetuning):  # type: ignore[misc, name-defined]
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone, train_bn=False)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if 1 <= epoch <= 3:
                self.unfreeze_and_add_param_group(pl_module.backbone[epoch - 1], optimizer, initial_denom_lr=2)

    return LayerByLayer()


def backbone(**arguments: Any) -> Any:
    return lambda side: side.pl.callbacks.BackboneFinetuning(**{"unfreeze_backbone_at_epoch": 1, **arguments})


CALLBACKS = [
    pytest.param(backbone(), id="default"),
    pytest.param(backbone(lambda_func=lambda epoch: 3.0, should_align=False), id="not aligned", marks=pytest.mark.slow),
    pytest.param(backbone(backbone_initial_lr=0.05, lambda_func=lambda epoch: 1 + epoch / 10), id="initial rate"),
    pytest.param(backbone(unfreeze_backbone_at_epoch=2, backbone_initial_ratio_lr=0.5, train_bn=False), id="ratio"),
    pytest.param(backbone(unfreeze_backbone_at_epoch=0), id="at once", marks=pytest.mark.slow),
    pytest.param(layer_by_layer, id="layer by layer"),
]


def keeper(side: Any) -> Any:
    """Saves at the end of every epoch."""
    return side.callback(
        on_train_epoch_end=lambda trainer, _: trainer.save_checkpoint(side.root / f"epoch={trainer.current_epoch}.ckpt")
    )


@pytest.mark.parametrize("callback", CALLBACKS)
def test_weights_and_rates(same_in_both: Any, callback: Any) -> None:
    def run(side: Any) -> Any:
        model = make(side)
        side.fit(model, callback(side), keeper(side), max_epochs=EPOCHS)
        checkpoint = torch.load(side.root / "epoch=3.ckpt", weights_only=True)
        return model.losses, model.rates, model.state_dict(), checkpoint["callbacks"], checkpoint["optimizer_states"]

    _, rates, *_ = same_in_both(run)
    assert len(rates[-1][0]) > 1


@pytest.mark.parametrize("writer", [0, 1], ids=["theirs", "ours"])
@pytest.mark.parametrize(
    ("callback", "epoch"),
    [
        pytest.param(backbone(), 0, id="before thawing"),
        pytest.param(backbone(), 1, id="after thawing", marks=pytest.mark.slow),
        pytest.param(layer_by_layer, 1, id="half thawed", marks=pytest.mark.slow),
    ],
)
def test_resumed(callback: Any, epoch: int, writer: int, both_sides: Any, call: Any) -> None:
    """From either's file both have the same groups; raylight also trains what was thawed, and so ends the same."""
    side = both_sides[writer]
    whole = make(side, scheduled=True)
    call(side, lambda side: side.fit(whole, callback(side), keeper(side), max_epochs=EPOCHS))

    def resume(reader: Any) -> Any:
        model = make(reader, scheduled=True)
        trainer = reader.trainer(callback(reader), max_epochs=EPOCHS)
        trainer.fit(model, ckpt_path=side.root / f"epoch={epoch}.ckpt")
        return model, callback(reader).state_dict().keys()

    (theirs, their_keys), (ours, our_keys) = (call(reader, resume) for reader in both_sides)
    assert our_keys == their_keys
    for one, other in zip(ours.rates, theirs.rates, strict=True):
        assert one[:2] == [pytest.approx(other[0]), other[1]]
    assert [trained for *_, trained in ours.rates] == [trained for *_, trained in whole.rates[-len(ours.rates) :]]
    for one, other in zip(ours.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)


def test_fit_goes_on_with_what_was_thawed(ours: Any) -> None:
    model, callback = make(ours), backbone()(ours)
    trainer = ours.fit(model, callback, max_epochs=2)
    ours.raise_max_epochs(trainer, 3)
    trainer.fit(model)
    assert [len(rates) for rates, *_ in model.rates] == [1] * 5 + [2] * 10
    assert all("backbone.0.weight" in trained for *_, trained in model.rates[5:])
