"""Teach a small language model to add, on two workers.

    python examples/language_model.py                           # a transformer of 58,000 weights, letter by letter
    python examples/language_model.py --ema --precision bf16-mixed
    python examples/language_model.py --workers 4               # four workers; with GPUs, four GPUs

The text, lines such as `58+67=125`, is made here; a tenth of the 10,000 sums is kept from the model to test it with.
Ctrl-C stops the training and keeps what it has reached; `--resume` goes on from there. It is a plain Lightning script:
with `import pytorch_lightning as pl` it runs without raylight.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import raylight as pl

CHARACTERS = "0123456789+=\n"
QUESTION, ANSWER = len("58+67="), len("125\n")


class Block(nn.Module):
    """One layer of a transformer: characters look at those before them, then each is worked on by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        # (batch, length, 3 * width) -> three of (batch, heads, length, width / heads)
        parts = self.query_key_value(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attended(seen.transpose(1, 2).flatten(2))
        return x + self.feedforward(self.norms[1](x))


class LanguageModel(pl.LightningModule):
    """A causal transformer over characters.

    Args:
        width: Of a character's vector; a multiple of ``heads``.
        depth: Layers.
        heads: Of each layer's attention.
        lr: Highest learning rate of the schedule.
        weight_decay: For matrices; biases and the like are left alone.
        warmup_steps: Optimizer steps in which the learning rate rises.
    """

    def __init__(
        self,
        width: int = 48,
        depth: int = 2,
        heads: int = 4,
        lr: float = 4e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # load_from_checkpoint makes the same network again
        self.characters = nn.Embedding(len(CHARACTERS), width)
        self.places = nn.Parameter(torch.empty(QUESTION + ANSWER, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width))
        self.next_character = nn.Linear(width, len(CHARACTERS))
        nn.init.normal_(self.characters.weight, std=0.02)
        nn.init.normal_(self.places, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        """Logits of the character that follows each, (batch, length, characters)."""
        return self.next_character(self.blocks(self.characters(text) + self.places[: text.shape[1]]))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (text,) = batch
        loss = F.cross_entropy(self(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (text,) = batch
        logits, targets = self(text[:, :-1]), text[:, 1:]
        right = (logits.argmax(dim=-1) == targets)[:, -ANSWER:].all(dim=1)  # every character of the answer
        metrics = {
            "val_loss": F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
            "val_exact": right.float().mean(),
        }
        # sync_dist: the mean over the samples of all workers, not only of this one's
        self.log_dict(metrics, prog_bar=True, sync_dist=True, batch_size=len(text))

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> list[str]:
        (text,) = batch
        return decode(self.generate(text[:, :QUESTION], ANSWER))

    def generate(self, text: Tensor, count: int) -> Tensor:
        """``text`` and the ``count`` characters after it, each the likeliest one."""
        for _ in range(count):
            text = torch.cat([text, self(text)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
        return text

    def configure_optimizers(self) -> dict:
        groups = [
            {"params": [p for p in self.parameters() if p.ndim > 1], "weight_decay": self.hparams.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr, betas=(0.9, 0.98))
        # Of the whole training, in optimizer steps: batches, workers, accumulation and epochs are taken into account.
        total_steps = int(self.trainer.estimated_stepping_batches)
        warmup_steps = self.hparams.warmup_steps

        def share_of_lr(step: int) -> float:
            """A straight line up, then half a cosine down."""
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
            return 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_lr)
        # "step": the schedule moves after every optimizer step, not after every epoch
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def all_sums() -> Tensor:
    """Every sum of two numbers below 100, a line of text each, as indices into CHARACTERS."""
    lines = [f"{a:02}+{b:02}={a + b:03}\n" for a in range(100) for b in range(100)]
    return torch.tensor([[CHARACTERS.index(character) for character in line] for line in lines])


def decode(text: Tensor) -> list[str]:
    return ["".join(CHARACTERS[index] for index in line) for line in text.tolist()]


def unigram_bits(text: Tensor) -> float:
    """Bits per character for a reader who knows how frequent each character is, and nothing else."""
    shares = torch.bincount(text[:, 1:].flatten()) / text[:, 1:].numel()
    return -(shares * shares.log2()).sum().item()


def best_bits() -> float:
    """Bits per character for a reader who can add: after the first character three are random digits of nine."""
    return 3 * math.log2(10) / (QUESTION + ANSWER - 1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12, help="at most; training ends when all test sums are right")
    parser.add_argument("--batch-size", type=int, default=32, help="samples per worker and batch")
    parser.add_argument("--accumulate", type=int, default=2, help="batches per optimizer step")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate of the schedule")
    parser.add_argument("--workers", type=int, default=2, help="one GPU each, or a share of the CPU cores")
    parser.add_argument("--precision", default="32-true", help="such as bf16-mixed")
    parser.add_argument("--ema", action="store_true", help="validate and end with an average of the weights")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from this file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", default="logs", help="folder for TensorBoard and checkpoints")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pl.seed_everything(args.seed)
    text = all_sums()
    train_set, test_set = random_split(TensorDataset(text), [0.9, 0.1], torch.Generator().manual_seed(args.seed))
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=250)

    logger = pl.loggers.TensorBoardLogger(args.logdir, name="language_model")
    checkpoint = pl.callbacks.ModelCheckpoint(monitor="val_loss", save_last=True, save_on_exception=True)
    callbacks = [
        checkpoint,
        pl.callbacks.EarlyStopping(monitor="val_exact", mode="max", patience=5, stopping_threshold=0.9999),
        pl.callbacks.LearningRateMonitor(logging_interval="step"),
    ]
    if args.ema:
        callbacks.append(pl.callbacks.EMAWeightAveraging(decay=0.98))
    trainer = pl.Trainer(
        devices=args.workers,
        precision=args.precision,
        accumulate_grad_batches=args.accumulate,
        gradient_clip_val=1.0,
        max_epochs=args.epochs,
        log_every_n_steps=10,
        callbacks=callbacks,
        logger=logger,
    )

    model = LanguageModel(lr=args.lr)
    (before,) = trainer.validate(model, test_loader, verbose=False)
    try:
        trainer.fit(model, train_loader, test_loader, ckpt_path=args.resume)
    except KeyboardInterrupt:  # after one Ctrl-C, and a last checkpoint; or after a second one, at once
        last = Path(logger.log_dir, "checkpoints", "last.ckpt")
        print(
            f"Stopped. Go on with: --resume {last}" if last.exists() else "Stopped before there was anything to keep."
        )
        sys.exit(130)  # as shells report Ctrl-C

    model = LanguageModel.load_from_checkpoint(checkpoint.best_model_path, map_location="cpu")
    (after,) = trainer.validate(model, test_loader, verbose=False)
    batches = trainer.predict(model, test_loader)
    written = [line for batch in batches for line in batch]
    true_sums = set(decode(text))
    right = sum(line in true_sums for line in written) / len(written)

    bits_before, bits_after = (metrics["val_loss"] / math.log(2) for metrics in (before, after))
    print(f"bits per character   {bits_before:.3f} before, {bits_after:.3f} after training")
    print(
        f"                     {unigram_bits(text):.3f} from frequencies alone, {best_bits():.3f} is the best possible"
    )
    print(f"sums that are right  {before['val_exact']:.1%} before, {right:.1%} after training")
    print(f"such as              {', '.join(line.strip() for line in written[:5])}")
    print(f"best checkpoint      {checkpoint.best_model_path}")
    print(f"curves               tensorboard --logdir {logger.log_dir}")


if __name__ == "__main__":  # worker processes may import this file
    main()
