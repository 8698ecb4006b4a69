"""Count the floating-point operations of a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def measure_flops(
    model: nn.Module, forward_fn: Callable[[], Tensor], loss_fn: Callable[[Tensor], Tensor] | None = None
) -> int:
    """Floating-point operations of one forward, and of the backward where ``loss_fn`` is given.

    Made under ``torch.device("meta")``, model and input cost neither memory nor time.

    Args:
        model: Whose operations these are; ``forward_fn`` calls it.
        forward_fn: Runs the model and returns what it gives.
        loss_fn: The loss of that.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        output = forward_fn()
        if loss_fn is not None:
            loss_fn(output).backward()
    total: int = counter.get_total_flops()
    return total
