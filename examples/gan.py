"""Train a generative adversarial network on handwritten digits, on two workers.

    python examples/gan.py                    # scikit-learn's 1797 real digits of 8x8 pixels; nothing to download
    python examples/gan.py --data-dir data    # MNIST, in the files everyone has (idx, gzipped or not)
    python examples/gan.py --epochs 60 --resume logs/gan/version_0/checkpoints/last.ckpt    # go on from there

Two networks with an optimizer each take turns in one training step (manual optimization): the generator makes digits
out of noise, the discriminator tells them from real ones. It is a plain Lightning script: with `import
pytorch_lightning as pl` it runs without raylight.
"""

from __future__ import annotations

import argparse

import torch
from digit_images import load_images  # the file beside this one
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import raylight as pl


class DigitImages(pl.LightningDataModule):
    """Scikit-learn's digits, or the MNIST files found in ``data_dir``."""

    def __init__(self, data_dir: str | None = None, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size  # per worker: a step with 2 workers sees twice as many samples
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        # Runs in every worker; the seed makes all of them split alike.
        self.train_set, self.val_set = load_images(self.data_dir, torch.Generator().manual_seed(self.seed))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=180)


class GAN(pl.LightningModule):
    """A generator and a discriminator of three linear layers each.

    Args:
        image_size: Height and width in pixels.
        latent_size: Random numbers that an image is made of.
        width: Of the hidden layers.
        generator_lr: Learning rate at the start; both fall to 0 in a line.
        discriminator_lr: Likewise.
        clip_norm: Largest norm of the gradients of one network.
    """

    def __init__(
        self,
        image_size: int = 8,
        latent_size: int = 16,
        width: int = 128,
        generator_lr: float = 1e-3,
        discriminator_lr: float = 2e-3,
        clip_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # training_step steps the optimizers, and schedulers are stepped by hand
        self.generator = nn.Sequential(
            nn.Linear(latent_size, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, image_size**2),
            nn.Sigmoid(),  # pixels in 0..1
            nn.Unflatten(1, (1, image_size, image_size)),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(),
            nn.Linear(image_size**2, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(width, 1),
        )
        # The same noise in every epoch, and after a restart, so that one sees each sample improve.
        self.register_buffer("sample_noise", torch.randn(64, latent_size))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def noise(self, count: int) -> Tensor:
        return torch.randn(count, self.hparams.latent_size, device=self.device)

    def configure_optimizers(self) -> tuple[list, list]:
        generator = torch.optim.Adam(self.generator.parameters(), self.hparams.generator_lr, betas=(0.5, 0.99))
        discriminator = torch.optim.Adam(
            self.discriminator.parameters(), self.hparams.discriminator_lr, betas=(0.5, 0.99)
        )
        optimizers = [generator, discriminator]
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(each, self.remaining) for each in optimizers]

    def remaining(self, epoch: int) -> float:
        """The share of the training that is left."""
        return max(0.0, 1 - epoch / self.trainer.max_epochs)

    def on_train_start(self) -> None:
        # Workers begin with the same random numbers; from here on each makes noise of its own.
        torch.manual_seed(torch.initial_seed() + self.global_rank)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, _ = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()

        self.toggle_optimizer(discriminator_optimizer)  # no gradients for the generator
        real, fake = self.discriminator(images), self.discriminator(self(self.noise(len(images))))
        # Real ones need not be more than 90 % certain: a discriminator that is too sure teaches little.
        discriminator_loss = as_label(real, 0.9) + as_label(fake, 0.0)
        self.step(discriminator_optimizer, discriminator_loss)
        self.untoggle_optimizer(discriminator_optimizer)

        self.toggle_optimizer(generator_optimizer)
        generator_loss = as_label(self.discriminator(self(self.noise(len(images)))), 1.0)
        self.step(generator_optimizer, generator_loss)
        self.untoggle_optimizer(generator_optimizer)

        self.log_dict({"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}, prog_bar=True)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer, self.hparams.clip_norm, "norm")
        optimizer.step()

    def on_train_epoch_end(self) -> None:
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.generator.eval()
        with torch.no_grad():
            self.logger.experiment.add_images("samples", self(self.sample_noise), self.current_epoch)
        self.generator.train()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, _ = batch
        distance = energy_distance(self(self.noise(len(images))), images)
        # sync_dist: the mean over the samples of all workers, not only of this one's
        self.log("val_distance", distance, prog_bar=True, sync_dist=True, batch_size=len(images))


def as_label(logits: Tensor, label: float) -> Tensor:
    """How far the discriminator is from saying ``label``: 1 for real, 0 for fake."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """How far apart two sets of images are; on average 0 for images of the same kind."""
    one, other = one.flatten(1), other.flatten(1)
    return 2 * torch.cdist(one, other).mean() - mean_distance(one) - mean_distance(other)


def mean_distance(images: Tensor) -> Tensor:
    """Between two different images."""
    return torch.cdist(images, images).sum() / (len(images) * (len(images) - 1))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32, help="samples per worker and batch")
    parser.add_argument("--workers", type=int, default=2, help="one GPU each, or a share of the CPU cores")
    parser.add_argument("--data-dir", help="folder with MNIST files; without it, scikit-learn's digits")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from this file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", default="logs", help="folder for TensorBoard and checkpoints")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pl.seed_everything(args.seed)
    model = GAN(image_size=28 if args.data_dir else 8)
    data = DigitImages(args.data_dir, args.batch_size, args.seed)
    checkpoint = pl.callbacks.ModelCheckpoint(monitor="val_distance", save_last=True)
    logger = pl.loggers.TensorBoardLogger(args.logdir, name="gan")

    trainer = pl.Trainer(
        devices=args.workers,
        # Each backward concerns one of the two networks; DDP must not wait for the other's gradients.
        strategy="auto" if args.workers == 1 else "ddp_find_unused_parameters_true",
        max_epochs=args.epochs,
        log_every_n_steps=10,
        callbacks=[checkpoint],
        logger=logger,
    )
    trainer.fit(model, datamodule=data, ckpt_path=args.resume)

    best = GAN.load_from_checkpoint(checkpoint.best_model_path, map_location="cpu").eval()
    data.setup()
    real = torch.stack([image for image, _ in data.val_set])
    with torch.no_grad():
        fake = best(best.noise(len(real)))
    print(f"pixels of real digits       mean {real.mean():.3f}, std {real.std():.3f}")
    print(f"pixels of generated digits  mean {fake.mean():.3f}, std {fake.std():.3f}")
    print(f"energy distance of the two  {energy_distance(fake, real):.3f}")
    print(f"best checkpoint             {checkpoint.best_model_path}")
    print(f"samples of every epoch      tensorboard --logdir {logger.log_dir}")


if __name__ == "__main__":  # worker processes may import this file
    main()
