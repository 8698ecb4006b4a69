"""A small recurrent language model."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Sampler

from raylight.core.module import LightningModule
from raylight.demos.transformer import NUM_WORDS, WikiText2

Hidden = tuple[Tensor, Tensor]


class SimpleLSTM(nn.Module):
    """Gives, for each word, the log-probabilities of the next, ``(batch * words, vocab_size)``, and its memory."""

    def __init__(
        self, vocab_size: int = NUM_WORDS, ninp: int = 512, nhid: int = 512, nlayers: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(vocab_size, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout, batch_first=True)
        self.decoder = nn.Linear(nhid, vocab_size)
        self.nlayers = nlayers
        self.nhid = nhid
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights of the words anew."""
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, input: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        scores = self.decoder(self.drop(output)).view(-1, self.vocab_size)
        return functional.log_softmax(scores, dim=1), hidden

    def init_hidden(self, batch_size: int) -> Hidden:
        """An empty memory."""
        empty = next(self.parameters()).new_zeros(self.nlayers, batch_size, self.nhid)
        return empty, empty.clone()


class SequenceSampler(Sampler[list[int]]):
    """Batches in which each position goes on where it was in the batch before; what fills no batch is left out.

    Args:
        dataset: Pieces of one text, in order.
        batch_size: Parts that the text is cut into, read side by side.
    """

    def __init__(self, dataset: Sized, batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.chunk_size = len(dataset) // batch_size

    def __iter__(self) -> Iterator[list[int]]:
        end = len(self.dataset) - len(self.dataset) % self.batch_size
        for first in range(self.chunk_size):
            yield list(range(first, end, self.chunk_size))

    def __len__(self) -> int:
        return self.chunk_size


class LightningLSTM(LightningModule):
    """``SimpleLSTM``, trained on ``WikiText2``; its memory lasts for an epoch."""

    def __init__(self, vocab_size: int = NUM_WORDS) -> None:
        super().__init__()
        self.model = SimpleLSTM(vocab_size=vocab_size)
        self.hidden: Hidden | None = None

    def on_train_epoch_end(self) -> None:
        self.hidden = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        input, target = batch
        hidden = self.hidden if self.hidden is not None else self.model.init_hidden(input.size(0))
        output, self.hidden = self.model(input, (hidden[0].detach(), hidden[1].detach()))
        loss = functional.nll_loss(output, target.view(-1))
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def prepare_data(self) -> None:
        WikiText2(download=True)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        dataset = WikiText2()
        return DataLoader(dataset, batch_sampler=SequenceSampler(dataset, batch_size=20))

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.parameters(), lr=20.0)
