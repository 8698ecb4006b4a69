"""What a model is made of: a table of its layers and their parameters."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from raylight.utilities.aliases import lazy_names
from raylight.utilities.example_input import eval_mode, transferred
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.tree import convert_floats

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""
if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)

PARAMETER_NUM_UNITS = [" ", "K", "M", "B", "T"]
UNKNOWN_SIZE = "?"
NOT_APPLICABLE = "n/a"
LEFTOVER_PARAMS_NAME = "other params"


class LayerSummary:
    """One row: a submodule. Its sizes are those of its next forward.

    Args:
        module: A ScriptModule, which takes no hooks, keeps its sizes to itself.
    """

    in_size: Any = UNKNOWN_SIZE
    """Shape of the input as a list, a list of shapes for several inputs; "?" when no forward has shown it."""
    out_size: Any = UNKNOWN_SIZE

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._hook: RemovableHandle | None = None
        if not isinstance(module, torch.jit.ScriptModule):
            # The hook must not keep this object, for which nothing but its user stands.
            self._hook = module.register_forward_hook(_record_sizes(weakref.ref(self)), with_kwargs=True)

    def __del__(self) -> None:
        self.detach_hook()

    def detach_hook(self) -> None:
        """Look at no forward any more; without effect after the first."""
        if self._hook is not None:
            self._hook.remove()

    @property
    def layer_type(self) -> str:
        """Name of the class."""
        return type(self._module).__name__

    @property
    def num_parameters(self) -> int:
        """Elements of all parameters."""
        return _num_elements(self._module.parameters())

    @property
    def training(self) -> bool:
        """Whether it is in "train" mode."""
        return self._module.training


def _record_sizes(summary: weakref.ref[LayerSummary]) -> Callable[..., None]:
    def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        layer = summary()
        if layer is None:
            return
        inputs = (*args, *kwargs.values())
        layer.in_size = parse_batch_shape(inputs[0] if len(inputs) == 1 else inputs)
        layer.out_size = parse_batch_shape(output)
        layer.detach_hook()

    return hook


class ModelSummary:
    """Layers and totals of ``model``; ``str()`` draws the table.

    Args:
        model: Any module. If it has an ``example_input_array``, one forward of it, in eval mode and without gradients,
            shows the sizes and the floating-point operations.
        max_depth: 1: the direct children; n: n levels; -1: all; 0: totals only.

    Raises:
        MisconfigurationException: ``max_depth`` is below -1.

    Attributes:
        flop_counts: For each layer its floating-point operations in one forward of the example input, by operator.
        total_flops: Their sum, over all operators of the model; 0 without an example.
    """

    def __init__(self, model: nn.Module, max_depth: int = 1) -> None:
        if not isinstance(max_depth, int) or max_depth < -1:
            raise MisconfigurationException(f"`max_depth` can be -1, 0 or > 0, got {max_depth}.")
        self._model = model
        self._max_depth = max_depth
        self._has_example = getattr(model, "example_input_array", None) is not None
        self.total_flops = 0
        self.flop_counts: dict[str, dict[Any, int]] = {}
        self._layers = self.summarize()

    def summarize(self) -> dict[str, LayerSummary]:
        """Look at the model again: each layer by its name. With an example, runs its forward."""
        layers = {name: LayerSummary(module) for name, module in self.named_modules}
        self.flop_counts = {name: {} for name in layers}
        if self._has_example:
            self._forward_example()
        for layer in layers.values():
            layer.detach_hook()
        return layers

    def _forward_example(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False, depth=self._max_depth + 1)
        with eval_mode(self._model), torch.no_grad(), counter:
            _call(self._model, _example_input(self._model))
        counts = counter.get_flop_counts()
        root = type(self._model).__name__
        self.flop_counts = {name: counts.get(f"{root}.{name}", {}) for name in self.flop_counts}
        self.total_flops = counter.get_total_flops()

    @property
    def named_modules(self) -> list[tuple[str, nn.Module]]:
        """The submodules down to ``max_depth``, each with its name."""
        return list(_modules_up_to(self._model, self._max_depth).items())

    @property
    def layer_names(self) -> list[str]:
        return list(self._layers)

    @property
    def layer_types(self) -> list[str]:
        return [layer.layer_type for layer in self._layers.values()]

    @property
    def param_nums(self) -> list[int]:
        return [layer.num_parameters for layer in self._layers.values()]

    @property
    def in_sizes(self) -> list[Any]:
        return [layer.in_size for layer in self._layers.values()]

    @property
    def out_sizes(self) -> list[Any]:
        return [layer.out_size for layer in self._layers.values()]

    @property
    def training_modes(self) -> list[bool]:
        return [layer.training for layer in self._layers.values()]

    @property
    def total_training_modes(self) -> dict[str, int]:
        """Number of submodules at any depth in "train" and in "eval" mode."""
        modes = [module.training for module in self._model.modules()][1:]
        return {"train": modes.count(True), "eval": modes.count(False)}

    @property
    def total_parameters(self) -> int:
        return _num_elements(self._model.parameters())

    @property
    def trainable_parameters(self) -> int:
        return _num_elements(parameter for parameter in self._model.parameters() if parameter.requires_grad)

    @property
    def total_layer_params(self) -> int:
        return sum(self.param_nums)

    @property
    def model_size(self) -> float:
        """Size of the parameters in MB (10**6 bytes), in the type that they have."""
        return (
            sum(_num_elements([parameter]) * parameter.element_size() for parameter in self._model.parameters()) / 1e6
        )

    def columns(self) -> list[tuple[str, list[str]]]:
        """The table: header and cells of each column."""
        columns = {
            " ": [str(number) for number in range(len(self._layers))],
            "Name": self.layer_names,
            "Type": self.layer_types,
            "Params": [get_human_readable_count(number) for number in self.param_nums],
            "Mode": ["train" if training else "eval" for training in self.training_modes],
            "FLOPs": [get_human_readable_count(sum(counts.values())) for counts in self.flop_counts.values()],
        }
        if self._has_example:
            columns["In sizes"] = [str(size) for size in self.in_sizes]
            columns["Out sizes"] = [str(size) for size in self.out_sizes]
        other_params = self.total_parameters - self.total_layer_params
        if other_params > 0:
            row = {" ": " ", "Name": LEFTOVER_PARAMS_NAME, "Params": get_human_readable_count(other_params)}
            for header, cells in columns.items():
                cells.append(row.get(header, NOT_APPLICABLE))
        return list(columns.items())

    def __str__(self) -> str:
        return format_summary_table(
            self.total_parameters,
            self.trainable_parameters,
            self.model_size,
            self.total_training_modes,
            self.total_flops,
            *self.columns(),
        )

    def __repr__(self) -> str:
        return str(self)


def summarize(lightning_module: nn.Module, max_depth: int = 1) -> ModelSummary:
    """The ``ModelSummary`` of ``lightning_module``; where the model is sharded, every rank must call it."""
    return ModelSummary(lightning_module, max_depth)


def format_summary_table(
    total_parameters: int,
    trainable_parameters: int,
    model_size: float,
    total_training_modes: Mapping[str, int],
    total_flops: int,
    *columns: tuple[str, list[str]],
) -> str:
    """Draw the columns side by side, and the totals below."""
    widths = [max(map(len, (header, *cells))) for header, cells in columns]
    divider = "-" * (sum(widths) + 3 * (len(columns) + 1))
    headers = tuple(header for header, _ in columns)
    rows = zip(*(cells for _, cells in columns), strict=True)
    head, *body = (" | ".join(map(str.ljust, row, widths)) for row in (headers, *rows))
    totals = summary_totals(total_parameters, trainable_parameters, model_size, total_training_modes, total_flops)
    foot = (f"{value:<10}{label}" for label, value in totals)
    return "\n".join((head, divider, *body, divider, *foot))


def summary_totals(
    total_parameters: int,
    trainable_parameters: int,
    model_size: float,
    total_training_modes: Mapping[str, int],
    total_flops: int,
) -> list[tuple[str, str]]:
    """The lines below the table: label and value."""
    return [
        ("Trainable params", get_human_readable_count(trainable_parameters)),
        ("Non-trainable params", get_human_readable_count(total_parameters - trainable_parameters)),
        ("Total params", get_human_readable_count(total_parameters)),
        ("Total estimated model params size (MB)", get_formatted_model_size(model_size)),
        ("Modules in train mode", str(total_training_modes["train"])),
        ("Modules in eval mode", str(total_training_modes["eval"])),
        ("Total Flops", get_human_readable_count(total_flops)),
    ]


def get_formatted_model_size(total_model_size: float) -> str:
    """``total_model_size`` in MB with three decimals."""
    return f"{total_model_size:,.3f}"


def get_human_readable_count(number: int) -> str:
    """``number`` in units of thousands K, millions M, billions B or trillions T; three digits at most, then cut.

    >>> get_human_readable_count(1234)
    '1.2 K'
    >>> get_human_readable_count(123)
    '123  '
    """
    group = min((len(str(number)) - 1) // 3, len(PARAMETER_NUM_UNITS) - 1)
    scaled = number / 1000**group
    digits = f"{int(scaled):,d}" if group == 0 or scaled >= 100 else f"{scaled:,.1f}"
    return f"{digits} {PARAMETER_NUM_UNITS[group]}"


def _modules_up_to(model: nn.Module, max_depth: int) -> dict[str, nn.Module]:
    if max_depth == 0:
        return {}
    if max_depth == 1:
        return dict(model.named_children())
    return {
        name: module
        for name, module in model.named_modules()
        if name and (max_depth == -1 or name.count(".") < max_depth)
    }


def _num_elements(parameters: Any) -> int:
    """Elements of ``parameters``; one whose shape is not known yet counts 0."""
    total = 0
    for parameter in parameters:
        if is_lazy(parameter):
            rank_zero_warn(
                "The total number of parameters detected may be inaccurate because the model contains an instance of "
                "`UninitializedParameter`. To get an accurate number, set `self.example_input_array` in your "
                "LightningModule."
            )
        else:
            total += parameter.numel()
    return total


def _example_input(model: nn.Module) -> Any:
    """The model's example where the parameters are, and of their type."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return convert_floats(transferred(model, model.example_input_array, parameter.device), parameter.dtype)


def _call(model: nn.Module, example: Any) -> None:
    if isinstance(example, list | tuple):
        model(*example)
    elif isinstance(example, Mapping):
        model(**example)
    else:
        model(example)


def parse_batch_shape(batch: Any) -> Any:
    """The shape of ``batch`` as a list; a list of shapes for several; "?" for what has none."""
    if hasattr(batch, "shape"):
        return list(batch.shape)
    if isinstance(batch, list | tuple):
        return [parse_batch_shape(each) for each in batch]
    return UNKNOWN_SIZE
