"""Lightning's plugins that raylight does not have: importing one says what to use instead."""

from __future__ import annotations

from typing import Any

from raylight.utilities.aliases import lazy_names

TPU = "raylight does not run on TPUs: use accelerator='cpu' or 'gpu'."
INSTEAD = {
    "BitsandbytesPrecision": "use HalfPrecision, or quantize the model yourself in configure_model().",
    "DeepSpeedPrecision": "there is no DeepSpeed strategy: use precision='bf16-mixed' with strategy='ddp'.",
    "FSDPPrecision": "there is no FSDP strategy: use precision='bf16-mixed' with strategy='ddp'.",
    "TransformerEnginePrecision": "use precision='bf16-true' or 'bf16-mixed'.",
    "XLACheckpointIO": TPU,
    "XLAPrecision": TPU,
    "XLAEnvironment": TPU,
}
PLACED_BY_RAY = "Ray places the workers, on any cluster: leave it out, and give devices= and num_nodes= only."
ENVIRONMENTS = (
    "KubeflowEnvironment",
    "LSFEnvironment",
    "LightningEnvironment",
    "MPIEnvironment",
    "SLURMEnvironment",
    "TorchElasticEnvironment",
)


def explain(module: str, name: str) -> Any:
    """A module's ``__getattr__``: a name of Lightning 1.x that has another one now.

    Raises:
        ImportError: The name is one of Lightning's; the message says what to do.
        AttributeError: It is not.
    """
    instead = PLACED_BY_RAY if name in ENVIRONMENTS else INSTEAD.get(name)
    if instead is None:
        return lazy_names(module)(name)
    raise ImportError(f"raylight has no {name}: {instead}")
