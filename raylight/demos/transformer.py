"""A small language model with attention, and a text to train it on."""

from __future__ import annotations

import math
import shutil
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from raylight.checkpoint import storage
from raylight.core.module import LightningModule

NUM_WORDS = 33278
"""Different words in WikiText2."""
TEXT_URL = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/train.txt"


class Transformer(nn.Module):
    """Gives, for each word of ``target``, the log-probabilities of the next: ``(batch * words, vocab_size)``."""

    def __init__(
        self,
        vocab_size: int = NUM_WORDS,
        ninp: int = 200,
        nhead: int = 2,
        nhid: int = 200,
        nlayers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.pos_encoder = PositionalEncoding(ninp, dropout)
        self.embedding = nn.Embedding(vocab_size, ninp)
        self.transformer = nn.Transformer(
            d_model=ninp,
            nhead=nhead,
            num_encoder_layers=nlayers,
            num_decoder_layers=nlayers,
            dim_feedforward=nhid,
            dropout=dropout,
            batch_first=True,
        )
        self.decoder = nn.Linear(ninp, vocab_size)
        self.ninp = ninp
        self.vocab_size = vocab_size

    def generate_square_subsequent_mask(self, size: int) -> Tensor:
        """0 where a word may look, -inf where it must not: at those after it."""
        return torch.full((size, size), -math.inf).triu(diagonal=1)

    def forward(self, inputs: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` is for ``target``; None: no word sees those after it."""
        if mask is None:
            mask = self.generate_square_subsequent_mask(inputs.size(1)).to(inputs.device)
        encoded, wanted = (self.pos_encoder(self.embedding(words) * math.sqrt(self.ninp)) for words in (inputs, target))
        scores = self.decoder(self.transformer(encoded, wanted, tgt_mask=mask))
        return functional.log_softmax(scores, dim=-1).view(-1, self.vocab_size)


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of the length of the text, the same to each word, as Lightning's demo does."""

    def __init__(self, dim: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dim = dim
        self.max_len = max_len
        self.pe: Tensor | None = None  # no buffer: it is not to be in a checkpoint

    def forward(self, x: Tensor) -> Tensor:
        if self.pe is None or self.pe.device != x.device:
            self.pe = self._waves(x.device)
        shifted: Tensor = self.dropout(x + self.pe[:, x.size(1)])
        return shifted

    def _waves(self, device: torch.device) -> Tensor:
        position = torch.arange(self.max_len, dtype=torch.float, device=device).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, self.dim, 2, device=device).float() * (-math.log(10000.0) / self.dim))
        waves = torch.zeros(self.max_len, self.dim, device=device)
        waves[:, 0::2] = torch.sin(position * frequency)
        waves[:, 1::2] = torch.cos(position * frequency)
        return waves.unsqueeze(0)


class WikiText2(Dataset[tuple[Tensor, Tensor]]):
    """Pieces of ``block_size`` words of a text, each with the same piece a word later.

    Args:
        data_dir: Where ``wikitext-2.txt`` is.
        block_size: Words of a piece.
        download: Fetch the text where it is not there yet.
    """

    def __init__(self, data_dir: Path = Path("./data"), block_size: int = 35, download: bool = True) -> None:
        self.path = data_dir / "wikitext-2.txt"
        if download:
            self.download(self.path)
        self.data, self.dictionary = tokenize(self.path)
        self.block_size = block_size

    @property
    def vocab_size(self) -> int:
        """Number of different words."""
        return len(self.dictionary)

    def __len__(self) -> int:
        return len(self.data) // self.block_size - 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        words = self.data[index * self.block_size : (index + 1) * self.block_size + 1]
        return words[:-1], words[1:]

    @staticmethod
    def download(destination: Path) -> None:
        """Fetch the text, unless it is there."""
        if destination.exists():
            return
        with urllib.request.urlopen(TEXT_URL) as answer:
            storage.write_atomic(destination, lambda file: shutil.copyfileobj(answer, file))


class Dictionary:
    """Words and their numbers, in the order of their first appearance."""

    def __init__(self) -> None:
        self.word2idx: dict[str, int] = {}
        self.idx2word: list[str] = []

    def add_word(self, word: str) -> int:
        """The number of ``word``."""
        number = self.word2idx.setdefault(word, len(self.idx2word))
        if number == len(self.idx2word):
            self.idx2word.append(word)
        return number

    def __len__(self) -> int:
        return len(self.idx2word)


def tokenize(path: Path) -> tuple[Tensor, Dictionary]:
    """The text as numbers of words, where "<eos>" ends each line."""
    dictionary = Dictionary()
    with open(path, encoding="utf8") as lines:
        numbers = [dictionary.add_word(word) for word in _words(lines)]
    return torch.tensor(numbers, dtype=torch.int64), dictionary


def _words(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield from [*line.split(), "<eos>"]


class LightningTransformer(LightningModule):
    """``Transformer``, trained on ``WikiText2``."""

    def __init__(self, vocab_size: int = NUM_WORDS) -> None:
        super().__init__()
        self.model = Transformer(vocab_size=vocab_size)

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        output: Tensor = self.model(inputs, target)
        return output

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, target = batch
        return functional.nll_loss(self(inputs, target), target.view(-1))

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)

    def prepare_data(self) -> None:
        WikiText2(download=True)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        return DataLoader(WikiText2())
