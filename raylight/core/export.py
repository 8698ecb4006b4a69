"""A LightningModule in the formats of other runtimes: ONNX, TorchScript, TensorRT."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from raylight.checkpoint import storage
from raylight.utilities.example_input import eval_mode, kept_modes, transferred
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.extras import import_extra
from raylight.utilities.rank_zero import rank_zero_deprecation

if TYPE_CHECKING:
    from io import BytesIO

    from torch.jit import ScriptModule
    from torch.onnx import ONNXProgram


class ExportMixin:
    """``example_input_array``, ``to_onnx``, ``to_torchscript`` and ``to_tensorrt``."""

    __jit_unused_properties__: ClassVar[list[str]]

    _example_input_array: Any

    @property
    def example_input_array(self) -> Any:
        """An input of ``forward``, for exports, the summary's sizes and the logger's graph; None unless set.

        A tensor is the only argument, a tuple holds the positional ones, a dict those with names.
        """
        return self._example_input_array

    @example_input_array.setter
    def example_input_array(self, example: Any) -> None:
        self._example_input_array = example

    def to_onnx(
        self, file_path: str | os.PathLike[str] | BytesIO | None = None, input_sample: Any = None, **kwargs: Any
    ) -> ONNXProgram | None:
        """Save the model in the ONNX format: ``pip install raylight[onnx]``.

        Args:
            file_path: A local path or a buffer. None writes nothing.
            input_sample: An input of ``forward``. None takes ``example_input_array``.
            **kwargs: For ``torch.onnx.export``.

        Returns:
            What ``torch.onnx.export`` does: the program, or None with ``dynamo=False``.

        Raises:
            ModuleNotFoundError: A package is not installed.
            ValueError: There is no input to follow through the model.
        """
        feature = f"`{type(self).__name__}.to_onnx()`"
        import_extra("onnx", feature, "raylight[onnx]")
        if kwargs.get("dynamo", True):
            import_extra("onnxscript", feature, "raylight[onnx]")
        if input_sample is None:
            input_sample = self._required_example(
                "Could not export to ONNX since neither `input_sample` nor `model.example_input_array` "
                "attribute is set."
            )
        model: Any = self
        sample = transferred(model, input_sample, model.device)
        path = os.fspath(file_path) if isinstance(file_path, os.PathLike) else file_path
        with kept_modes(model):
            return torch.onnx.export(model, sample, cast(Any, path), **kwargs)

    @torch.no_grad()
    def to_torchscript(
        self,
        file_path: str | os.PathLike[str] | None = None,
        method: str | None = "script",
        example_inputs: Any = None,
        **kwargs: Any,
    ) -> ScriptModule | dict[str, ScriptModule]:
        """The model as a ``torch.jit.ScriptModule`` in eval mode. Deprecated, as TorchScript is; see ``torch.export``.

        Args:
            file_path: A path or URI to save it to. None writes nothing.
            method: "script" compiles ``forward``; "trace" follows an input through it.
            example_inputs: The input for "trace". None takes ``example_input_array``.
            **kwargs: For ``torch.jit.script`` or ``torch.jit.trace``.

        Raises:
            ValueError: Another method, or "trace" without an input.
        """
        rank_zero_deprecation(
            "`LightningModule.to_torchscript` has been deprecated in v2.7 and will be removed in v2.8. TorchScript is "
            "deprecated in PyTorch. Use `torch.export.export()` for model exporting instead. "
            "See https://pytorch.org/docs/stable/export.html for more information."
        )
        model: Any = self
        if method == "script":
            with eval_mode(model), readable_by_torchscript(model):
                module = torch.jit.script(model, **kwargs)
        elif method == "trace":
            if example_inputs is None:
                example_inputs = self._required_example(
                    "Choosing method=`trace` requires either `example_inputs` or `model.example_input_array` to be "
                    "defined."
                )
            if kwargs.get("check_inputs") is not None:
                kwargs["check_inputs"] = transferred(model, kwargs["check_inputs"], model.device)
            inputs = transferred(model, example_inputs, model.device)
            with eval_mode(model), readable_by_torchscript(model):
                module = torch.jit.trace(func=model, example_inputs=inputs, **kwargs)
        else:
            raise ValueError(f"The 'method' parameter only supports 'script' or 'trace', but value given was: {method}")
        if file_path is not None:

            def write(stream: BinaryIO) -> None:
                with _without_torchs_notices():
                    torch.jit.save(module, stream)

            storage.write_atomic(file_path, write)
        return cast("ScriptModule", module)

    @torch.no_grad()
    def to_tensorrt(
        self,
        file_path: str | os.PathLike[str] | BytesIO | None = None,
        input_sample: Any = None,
        ir: Literal["default", "dynamo", "ts"] = "default",
        output_format: Literal["exported_program", "torchscript"] = "exported_program",
        retrace: bool = False,
        default_device: str | torch.device = "cuda",
        **compile_kwargs: Any,
    ) -> Any:
        """Compile the model with TensorRT, which the package ``torch_tensorrt`` brings.

        Args:
            file_path: A local path or a buffer to save it to. None writes nothing.
            input_sample: An input of ``forward``. None takes ``example_input_array``.
            ir: Form of the model that TensorRT gets.
            output_format: Of the file; "torchscript" belongs to ``ir="ts"``.
            retrace: Follow the input through the compiled model again before saving.
            default_device: Where to compile a model that is not on a CUDA device; it is moved back afterwards.
            **compile_kwargs: For ``torch_tensorrt.compile``.

        Returns:
            A ``ScriptModule`` with ``ir="ts"``, else a ``torch.fx.GraphModule``.

        Raises:
            ModuleNotFoundError: ``torch_tensorrt`` is not installed.
            MisconfigurationException: There is no CUDA device to compile on.
            ValueError: There is no input, or the file's format does not belong to ``ir``.
        """
        tensorrt: Any = import_extra("torch_tensorrt", f"`{type(self).__name__}.to_tensorrt`", "torch_tensorrt")
        if file_path is not None and ir == "ts" and output_format != "torchscript":
            raise ValueError(
                "TensorRT with IR mode 'ts' only supports output format 'torchscript'. "
                f"The current output format is {output_format}."
            )
        model: Any = self
        device = model.device
        target = device if device.type == "cuda" else torch.device(default_device)
        if target.type != "cuda" or not torch.cuda.is_available():
            raise MisconfigurationException(
                f"TensorRT only supports CUDA devices. The current device is {device}. Please set the `default_device` "
                "argument to a CUDA device."
            )
        if input_sample is None:
            input_sample = self._required_example(
                "Could not export to TensorRT since neither `input_sample` nor `model.example_input_array` "
                "attribute is set."
            )
        sample = transferred(model, (input_sample,) if isinstance(input_sample, Tensor) else input_sample, target)
        model.to(target)
        try:
            with eval_mode(model), readable_by_torchscript(model) if ir == "ts" else nullcontext():
                compiled = tensorrt.compile(module=model, ir=ir, inputs=sample, **compile_kwargs)
        finally:
            model.to(device)
        if file_path is not None and ir == "ts":
            with _without_torchs_notices():  # torch_tensorrt.save has trouble with the inputs of a ScriptModule
                torch.jit.save(compiled, file_path)
        elif file_path is not None:
            tensorrt.save(compiled, file_path, inputs=sample, output_format=output_format, retrace=retrace)
        return compiled

    def _required_example(self, otherwise: str) -> Any:
        if self.example_input_array is None:
            raise ValueError(otherwise)
        return self.example_input_array


@contextmanager
def readable_by_torchscript(model: nn.Module) -> Iterator[None]:
    """TorchScript reads every property of a module, and ``trainer`` raises where there is none: not inside."""
    alone: list[Any] = [m for m in model.modules() if isinstance(m, ExportMixin) and cast(Any, m)._trainer is None]
    for module in alone:
        module._trainer = _NOBODY
    try:
        with _without_torchs_notices():
            yield
    finally:
        for module in alone:
            module._trainer = None


@contextmanager
def _without_torchs_notices() -> Iterator[None]:
    """Torch does not say of each of its functions that TorchScript is deprecated."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=".*torch.jit.", category=category)
        yield


_NOBODY = object()


def properties_of(cls: type) -> list[str]:
    """Names of the properties of ``cls``: those of a LightningModule are nothing for TorchScript to compile."""
    return [name for name in dir(cls) if isinstance(getattr(cls, name), property)]
