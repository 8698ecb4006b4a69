"""Models in other formats compute what the model does."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx.reference
import pytest
import torch
from torch import Tensor, nn

import raylight as pl
from raylight.utilities.exceptions import MisconfigurationException

OLD_EXPORTER = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NEW_EXPORTER = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
DEPRECATED = "to_torchscript` has been deprecated in v2.7 and will be removed in v2.8"


class Inner(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Model(pl.LightningModule):
    """Layers, a LightningModule inside, hyperparameters, and a property that ``forward`` uses."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.inner = Inner()
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(2).eval()

    @property
    def half(self) -> float:
        return 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(self.drop(self.inner(x))) * self.half

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 3), batch_size=2)


def expected(model: nn.Module, x: Tensor) -> Tensor:
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        result = model.eval()(x)
    for module, training in modes.items():
        module.training = training
    return result


pytestmark = pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode at the start of training")


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def fitted(model: Any) -> Any:
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", fast_dev_run=True, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model)
    return model


# ------------------------------------------------------------------------------------------------ TorchScript


@pytest.mark.parametrize("attach", [lambda model: model, fitted], ids=["alone", "after fit"])
@pytest.mark.parametrize(("method", "inputs"), [("script", None), ("trace", torch.ones(1, 3))])
def test_torchscript(method: str, inputs: Any, attach: Any) -> None:
    model = attach(Model())
    before = modes(model)
    with pytest.warns(DeprecationWarning, match=DEPRECATED):
        script = model.to_torchscript(method=method, example_inputs=inputs)
    x = torch.randn(4, 3)
    torch.testing.assert_close(script(x), expected(model, x))
    assert not script.training
    assert modes(model) == before
    assert not hasattr(script, "trainer")
    assert not hasattr(script, "hparams")
    assert getattr(script, "training_step", None) is None


@pytest.mark.filterwarnings(f"ignore:.*{DEPRECATED}")
def test_a_trainer_is_missed_again_afterwards() -> None:
    model = Model()
    model.to_torchscript()
    for each in (model, model.inner):
        with pytest.raises(RuntimeError, match="not attached to a `Trainer`"):
            each.trainer  # noqa: B018


@pytest.mark.filterwarnings(f"ignore:.*{DEPRECATED}")
def test_torchscript_is_written(tmp_path: Path) -> None:
    model, path = Model(), tmp_path / "new" / "model.pt"
    script = model.to_torchscript(path)
    x = torch.randn(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = torch.jit.load(path)
    torch.testing.assert_close(loaded(x), script(x))


@pytest.mark.filterwarnings(f"ignore:.*{DEPRECATED}")
def test_trace_takes_the_models_example_through_its_hooks() -> None:
    class Transferring(Model):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append(dataloader_idx)
            return batch

    seen: list[int] = []
    model = Transferring()
    model.example_input_array = torch.ones(2, 3)
    model.to_torchscript(method="trace", check_inputs=[torch.ones(1, 3)])
    assert seen == [0, 0]


@pytest.mark.filterwarnings(f"ignore:.*{DEPRECATED}")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "trace"}, "requires either `example_inputs` or `model.example_input_array` to be defined"),
        ({"method": "temp"}, "only supports 'script' or 'trace', but value given was: temp"),
    ],
)
def test_torchscript_errors(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model().to_torchscript(**settings)


# ------------------------------------------------------------------------------------------------ ONNX


def run_onnx(source: Any, x: Tensor) -> Tensor:
    session = onnx.reference.ReferenceEvaluator(onnx.load(source))
    (result,) = session.run(None, {session.input_names[0]: x.numpy()})
    return torch.from_numpy(np.asarray(result))


@NEW_EXPORTER
def test_onnx(tmp_path: Path, capsys: Any) -> None:
    model = Model().eval()
    program = model.to_onnx(tmp_path / "model.onnx", torch.ones(2, 3))
    assert isinstance(program, torch.onnx.ONNXProgram)
    x = torch.randn(2, 3)
    torch.testing.assert_close(run_onnx(tmp_path / "model.onnx", x), expected(model, x))


@OLD_EXPORTER
@pytest.mark.parametrize("attach", [lambda model: model, fitted], ids=["alone", "after fit"])
def test_onnx_of_the_old_exporter(attach: Any) -> None:
    model = attach(Model()).train()
    model.frozen.eval()
    model.example_input_array = torch.ones(2, 3)
    before = modes(model)
    buffer = io.BytesIO()
    assert model.to_onnx(buffer, dynamo=False) is None
    assert modes(model) == before
    buffer.seek(0)
    x = torch.randn(2, 3)
    torch.testing.assert_close(run_onnx(buffer, x), expected(model, x))


def test_onnx_needs_an_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither `input_sample` nor `model.example_input_array` attribute is set."):
        Model().to_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize(("package", "settings"), [("onnx", {"dynamo": False}), ("onnx", {}), ("onnxscript", {})])
def test_onnx_names_a_missing_package(package: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"`Model.to_onnx\(\)` requires `{package}` to be installed.*raylight\[onnx\]"
    with pytest.raises(ModuleNotFoundError, match=message):
        Model().to_onnx(None, torch.ones(1, 3), **settings)


# ------------------------------------------------------------------------------------------------ TensorRT


def test_tensorrt_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(ModuleNotFoundError, match="`Model.to_tensorrt` requires `torch_tensorrt` to be installed"):
        Model().to_tensorrt()


def test_tensorrt_needs_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", torch)  # it is not used before this is checked
    with pytest.raises(MisconfigurationException, match="TensorRT only supports CUDA devices"):
        Model().to_tensorrt(default_device="cpu")
    with pytest.raises(ValueError, match="only supports output format 'torchscript'"):
        Model().to_tensorrt("model.ts", ir="ts")


# ------------------------------------------------------------------------------------------------ the example


def test_the_example_is_none_unless_set() -> None:
    model = Model()
    assert model.example_input_array is None
    model.example_input_array = (torch.ones(1, 3),)
    assert len(model.example_input_array) == 1
    assert "example_input_array" not in model.state_dict()


def test_a_class_may_define_the_example() -> None:
    class Fixed(Model):
        example_input_array = torch.ones(1, 3)

    class Computed(Model):
        @property
        def example_input_array(self) -> Any:
            return torch.ones(5, 3)

    assert Fixed().example_input_array.shape == (1, 3)
    assert Computed().example_input_array.shape == (5, 3)
    from raylight.utilities.model_summary import ModelSummary

    assert ModelSummary(Computed()).in_sizes[0] == [5, 3]


def test_every_property_is_hidden_from_torchscript() -> None:
    hidden = set(pl.LightningModule.__jit_unused_properties__)
    assert {"trainer", "logger", "hparams", "device", "example_input_array", "automatic_optimization"} <= hidden
    assert "half" not in hidden
