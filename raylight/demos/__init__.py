"""Models and data to try things out with."""

from raylight.demos.boring_classes import BoringDataModule, BoringModel, DemoModel
from raylight.demos.lstm import LightningLSTM, SequenceSampler, SimpleLSTM
from raylight.demos.transformer import LightningTransformer, Transformer, WikiText2

__all__ = [
    "BoringDataModule",
    "BoringModel",
    "DemoModel",
    "LightningLSTM",
    "LightningTransformer",
    "SequenceSampler",
    "SimpleLSTM",
    "Transformer",
    "WikiText2",
]
