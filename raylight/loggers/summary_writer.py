"""TensorBoard's writer, which writes no secrets, and nothing beside its folder."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from raylight.checkpoint.names import below
from raylight.utilities.redaction import without_secrets
from raylight.utilities.secrets import redact_text


class Writer(SummaryWriter):
    """A ``SummaryWriter`` with the same methods."""

    def add_text(self, tag: str, text_string: str, *args: Any, **kwargs: Any) -> None:
        super().add_text(tag, redact_text(text_string), *args, **kwargs)

    def add_scalars(self, main_tag: str, tag_scalar_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        # Each tag has a folder of its own, whose name it is.
        super().add_scalars(main_tag, {below(tag): each for tag, each in tag_scalar_dict.items()}, *args, **kwargs)

    def add_hparams(
        self,
        hparam_dict: dict[str, Any],
        metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, list[Any]] | None = None,
        run_name: str | None = None,
        global_step: int | None = None,
    ) -> None:
        folder = None if run_name is None else below(run_name)
        super().add_hparams(without_secrets(hparam_dict), metric_dict, hparam_domain_discrete, folder, global_step)
