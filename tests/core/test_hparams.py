import copy
import dataclasses
import io
import pickle
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import raylight
from raylight.core.hparams import (
    AttributeDict,
    HyperparametersMixin,
    class_only,
    load_init_kwargs,
    make_again,
)
from raylight.utilities.exceptions import MisconfigurationException

# Parity: each function makes an object on the base given to it.


def all_arguments(base: Any) -> Any:
    class Model(base):
        def __init__(self, width: int, lr: float = 0.1, *rest: int, flag: bool = True, **kwargs: Any) -> None:
            super().__init__()
            width = width + 1  # what counts is the value at the time of the call
            self.save_hyperparameters()

    return Model(4, 0.2, 7, 8, momentum=0.9, lr2=1)


def no_arguments(base: Any) -> Any:
    class Model(base):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()

    return Model()


def names_only(base: Any) -> Any:
    class Model(base):
        def __init__(self, a: int, b: int, c: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters("a", "c", logger=False)

    return Model(1, 2)


def ignored(base: Any) -> Any:
    class Model(base):
        def __init__(self, a: int, b: int, c: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=["a", "nothing"])

    return Model(1, 2)


def ignored_by_the_subclass(base: Any) -> Any:
    class Parent(base):
        def __init__(self, a: int, b: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Child(Parent):
        def __init__(self, a: int, c: int) -> None:
            super().__init__(a, b=2)
            self.save_hyperparameters(ignore="b")

    return Child(1, 3)


def dict_argument(base: Any) -> Any:
    class Model(base):
        def __init__(self, size: int, conf: dict[str, Any]) -> None:
            super().__init__()
            self.save_hyperparameters(conf, ignore="drop")

    return Model(1, {"lr": 0.1, "drop": 2})


def namespace_argument(base: Any) -> Any:
    class Model(base):
        def __init__(self, hparams: Namespace) -> None:
            super().__init__()
            self.save_hyperparameters(hparams)

    return Model(Namespace(lr=0.1, layers=[1, 2]))


def empty_dict_argument(base: Any) -> Any:
    class Model(base):
        def __init__(self, conf: dict[str, Any]) -> None:
            super().__init__()
            self.save_hyperparameters(conf, logger=False)

    return Model({})


def dict_that_is_no_argument(base: Any) -> Any:
    class Model(base):
        def __init__(self, conf: int) -> None:
            super().__init__()
            self.save_hyperparameters({"other": conf})

    return Model(1)


def parent_saves(base: Any) -> Any:
    class Parent(base):
        def __init__(self, a: int, b: int = 2, **kwargs: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Child(Parent):
        def __init__(self, a: int, extra: str, **kwargs: Any) -> None:
            super().__init__(a * 10, **kwargs)

    return Child(1, "x", momentum=0.9)


def both_save(base: Any) -> Any:
    class Parent(base):
        def __init__(self, a: int, b: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters("b")

    class Child(Parent):
        def __init__(self, a: int, c: int) -> None:
            super().__init__(a, b=20)
            self.save_hyperparameters({"d": 4, "b": 21})
            self.save_hyperparameters("c")

    return Child(1, 3)


def saved_before_super(base: Any) -> Any:
    class Parent(base):
        def __init__(self, a: int) -> None:
            super().__init__()

    class Child(Parent):
        def __init__(self, a: int, c: int) -> None:
            self.save_hyperparameters()
            super().__init__(a + 1)

    return Child(1, 3)


def saved_by_a_helper(base: Any) -> Any:
    class Model(base):
        def __init__(self, a: int) -> None:
            super().__init__()
            self._configure(b=2)

        def _configure(self, b: int) -> None:
            self.save_hyperparameters()

    return Model(1)


def parent_called_by_name(base: Any) -> Any:
    class Parent(base):
        def __init__(self, a: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Child(Parent):
        def __init__(self, a: int, c: int) -> None:
            Parent.__init__(self, a)

    return Child(1, 3)


def composed(base: Any) -> Any:
    class Inner(base):
        def __init__(self, x: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Outer(base):
        def __init__(self, y: int) -> None:
            super().__init__()
            self.inner = Inner(x=1)

    return Outer(2).inner


def made_inside_another_function(base: Any) -> Any:
    class Model(base):
        def __init__(self, x: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    class Factory:
        def __init__(self, y: int) -> None:
            super().__init__()
            self.model = Model(x=1)

    return Factory(2).model


def with_another_base(base: Any) -> Any:
    class Mixin:
        def __init__(self, m: int = 5, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    class Model(Mixin, base):
        def __init__(self, a: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    return Model(1)


def dataclass_fields(base: Any) -> Any:
    @dataclasses.dataclass
    class Model(base):
        a: int
        b: str = "x"
        derived: int = dataclasses.field(init=False, default=7)

        def __post_init__(self) -> None:
            super().__init__()
            self.save_hyperparameters(ignore="b")

    return Model(1)


def given_frame(base: Any) -> Any:
    import inspect

    class Model(base):
        def __init__(self, a: int) -> None:
            super().__init__()
            frame = inspect.currentframe()
            (lambda: self.save_hyperparameters(frame=frame))()

    return Model(1)


def saved_from_outside(base: Any) -> Any:
    class Model(base):
        def __init__(self, a: int) -> None:
            super().__init__()

    model = Model(1)
    model.save_hyperparameters({"b": 2})
    return model


def lightnings_base() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.core.mixins import HyperparametersMixin as LightningsMixin
    return LightningsMixin


@pytest.mark.parametrize(
    ("make", "expected", "name"),
    [
        (all_arguments, {"width": 5, "lr": 0.2, "flag": True, "momentum": 0.9, "lr2": 1}, "kwargs"),
        (no_arguments, {}, None),
        (names_only, {"a": 1, "c": 3}, "kwargs"),
        (ignored, {"b": 2, "c": 3}, "kwargs"),
        (ignored_by_the_subclass, {"a": 1, "c": 3}, "kwargs"),
        (dict_argument, {"lr": 0.1}, "conf"),
        (namespace_argument, {"lr": 0.1, "layers": [1, 2]}, "hparams"),
        (empty_dict_argument, {}, None),
        (dict_that_is_no_argument, {"other": 1}, None),
        (parent_saves, {"a": 1, "b": 2, "extra": "x", "momentum": 0.9}, "kwargs"),
        (both_save, {"b": 21, "c": 3, "d": 4}, "kwargs"),
        (saved_before_super, {"a": 1, "c": 3}, "kwargs"),
        (saved_by_a_helper, {"a": 1}, "kwargs"),
        (parent_called_by_name, {"a": 1}, "kwargs"),
        (composed, {"x": 1, "y": 2}, "kwargs"),
        (made_inside_another_function, {"x": 1}, "kwargs"),
        (with_another_base, {"a": 1}, "kwargs"),
        (dataclass_fields, {"a": 1}, "kwargs"),
        (given_frame, {"a": 1}, "kwargs"),
        (saved_from_outside, {"b": 2}, None),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_same_as_lightning(make: Callable[[Any], Any], expected: dict[str, Any], name: str | None) -> None:
    ours, theirs = make(HyperparametersMixin), make(lightnings_base())

    assert ours.hparams == expected
    assert ours.hparams == theirs.hparams
    assert ours.hparams_initial == theirs.hparams_initial
    assert ours._hparams_name == getattr(theirs, "_hparams_name", None) == name
    if make is not saved_before_super:  # Lightning's super().__init__() forgets there that they are to be logged
        assert ours._log_hyperparams == theirs._log_hyperparams


def test_works_on_a_torch_module() -> None:
    class Model(HyperparametersMixin, torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    model = Model(3)

    assert model.hparams.width == 3
    assert pickle.loads(pickle.dumps(copy.deepcopy(model.hparams))) == {"width": 3}
    assert list(model.parameters()) == []


def test_initial_values_do_not_change() -> None:
    model = namespace_argument(HyperparametersMixin)

    model.hparams.layers.append(3)
    model.hparams.lr = 1.0
    model.hparams_initial["lr"] = 2.0

    assert model.hparams == {"lr": 1.0, "layers": [1, 2, 3]}
    assert model.hparams_initial == {"lr": 0.1, "layers": [1, 2]}


def test_module_among_the_arguments_is_warned_about() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, net: torch.nn.Module, lr: float) -> None:
            self.save_hyperparameters(ignore=ignore)
            super().__init__()

    ignore: list[str] = []
    with pytest.warns(UserWarning, match=r"'net' is an instance of `nn.Module` .*ignore=\['net'\]"):
        Model(torch.nn.Linear(1, 1), 0.1)

    ignore = ["net"]
    assert Model(torch.nn.Linear(1, 1), 0.1).hparams == {"lr": 0.1}


def test_value_that_cannot_be_copied_is_named() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, lock: Any, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()

    with pytest.raises(MisconfigurationException, match=r"'lock' cannot be copied .*ignore=\['lock'\]"):
        Model(threading.Lock(), 0.1)


def test_arrays_among_the_arguments() -> None:
    class Model(HyperparametersMixin):
        def __init__(self, weights: Any, conf: dict[str, int]) -> None:
            super().__init__()
            self.save_hyperparameters(conf)

    assert Model(np.ones(3), {"a": 1})._hparams_name == "conf"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("lr", "widht"), "'widht', but __init__ has only the arguments 'width', 'lr'"),
        (({"a": 1}, "lr"), "either names of arguments, or one dict or Namespace; it got dict, str"),
        ((3,), "Primitives .* are not allowed"),
        ((MappingProxyType({"a": 1}),), "Unsupported config type"),
    ],
)
def test_what_cannot_be_saved(chosen: tuple[Any, ...], message: str) -> None:
    class Model(HyperparametersMixin):
        def __init__(self, width: int, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters(*chosen)

    with pytest.raises(MisconfigurationException, match=message):
        Model(1, 0.1)


def test_attribute_dict() -> None:
    hparams = AttributeDict({"key1": 1, "key2": "abc"})
    hparams.update({"my-key": 3.14})
    hparams.key1 = 2
    hparams.new = None
    del hparams.new

    assert hparams.key1 == hparams["key1"] == 2
    assert repr(hparams) == '"key1":   2\n"key2":   abc\n"my-key": 3.14'
    assert repr(AttributeDict()) == ""
    with pytest.raises(AttributeError, match="'AttributeDict' object has no attribute 'missing'"):
        _ = hparams.missing
    with pytest.raises(KeyError):
        del hparams.missing


def test_attribute_dict_prints_as_lightnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.utilities.parsing import AttributeDict as LightningsAttributeDict
    content = {"b": 1, "a long name": [1], "c": {"d": None}}

    assert repr(AttributeDict(content)) == repr(LightningsAttributeDict(content))


# From a checkpoint back to arguments


class Keys:
    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "hparams_name"


class Plain(Keys):
    def __init__(self, width: int, lr: float = 0.1, *args: int) -> None: ...


class Variadic(Keys):
    def __init__(self, width: int, **kwargs: Any) -> None: ...


class Configured(Keys):
    def __init__(self, conf: Any, verbose: bool = False) -> None: ...


@pytest.mark.parametrize(
    ("cls", "name", "stored", "overrides", "expected"),
    [
        (Plain, "kwargs", {"width": 1, "lr": 2}, {}, {"width": 1, "lr": 2}),
        (Plain, "kwargs", {"width": 1, "removed": 2}, {"lr": 3}, {"width": 1, "lr": 3}),
        (Plain, "kwargs", {"width": 1}, {"width": 3}, {"width": 3}),
        (Plain, None, {"args": 1, "self": 2}, {"width": 3}, {"width": 3}),
        (Variadic, "kwargs", {"width": 1, "a": 2}, {"b": 3}, {"width": 1, "a": 2, "b": 3}),
        (Variadic, "kwargs", {"a": 2, "_class_path": "x.Y", "_instantiator": "x.z"}, {}, {"a": 2}),
        (Configured, "conf", {"lr": 1}, {}, {"conf": {"lr": 1}}),
        (
            Configured,
            "conf",
            {"lr": 1},
            {"lr": 2, "verbose": True},
            {"conf": {"lr": 2, "verbose": True}, "verbose": True},
        ),
        (Configured, "conf", {"lr": 1}, {"conf": {"lr": 3}}, {"conf": {"lr": 3}}),
        (Configured, "renamed", {"conf": 1}, {}, {"conf": 1}),
    ],
)
def test_load_init_kwargs(
    cls: type[Keys], name: str | None, stored: dict[str, Any], overrides: dict[str, Any], expected: dict[str, Any]
) -> None:
    checkpoint = {"hparams_name": name, "hyper_parameters": stored}
    before = copy.deepcopy(checkpoint)

    assert load_init_kwargs(cls, checkpoint, None, overrides) == expected
    assert checkpoint == before


def test_single_argument_comes_back_with_attributes() -> None:
    checkpoint = {"hparams_name": "conf", "hyper_parameters": {"lr": 0.5}}

    assert load_init_kwargs(Configured, checkpoint, None, {})["conf"].lr == 0.5


def test_checkpoint_without_hyperparameters() -> None:
    assert load_init_kwargs(Plain, {}, None, {"width": 2}) == {"width": 2}


def test_override_that_is_no_argument() -> None:
    with pytest.warns(UserWarning, match="Plain.__init__ takes no 'widht'.* its arguments are 'width', 'lr'"):
        assert load_init_kwargs(Plain, {"hyper_parameters": {"width": 1}}, None, {"widht": 2}) == {"width": 1}


def test_hparams_file_takes_the_place_of_what_is_stored(tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text("lr: 0.5\nlayers: !!python/tuple\n- 1\n- - 2\nnested:\n  a: b\n")
    (tmp_path / "hparams.csv").write_text('key,value\nlr,0.5\nname,a b\nlayers,"(1, 2)"\n')

    stored = {"hyper_parameters": {"width": 1, "lr": 0.1}}
    assert load_init_kwargs(Plain, stored, tmp_path / "hparams.yaml", {"width": 3}) == {"width": 3, "lr": 0.5}


def test_keys_of_the_first_versions() -> None:
    checkpoint = {"hparams": {"width": 1}, "module_arguments": {"lr": 3}, "hparams_type": "Namespace"}

    assert load_init_kwargs(Plain, checkpoint, None, {}) == {"width": 1, "lr": 3}
    assert load_init_kwargs(Plain, {**checkpoint, "hyper_parameters": {"lr": 4}}, None, {}) == {"width": 1, "lr": 4}


class Net(Keys):
    def __init__(self, width: int = 0) -> None:
        self.width = width


HOSTILE_HPARAMS = [
    ({"_instantiator": "os.system"}, "instantiator 'os.system' .* is not in the allowlist"),
    ({"_instantiator": ["os", "system"]}, "is not in the allowlist"),
    (
        {"_instantiator": "pytorch_lightning.cli.instantiate_module", "_class_path": "subprocess.Popen"},
        "class 'subprocess.Popen' .* was blocked",
    ),
    (
        {"_instantiator": "lightning.pytorch.cli.instantiate_module", "_class_path": "antigravity.Net"},
        "class 'antigravity.Net' .* was blocked",
    ),
]


@pytest.mark.parametrize(("hparams", "message"), HOSTILE_HPARAMS)
def test_a_file_does_not_choose_what_is_called(hparams: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_again(Net, {"hyper_parameters": {"width": 1, **hparams}}, None, {})

    assert "antigravity" not in sys.modules


def test_saved_values_are_attributes() -> None:
    class Model(raylight.LightningModule):
        batch_size = 2

        def __init__(self, lr: float, batch_size: int, layer: Any, _hidden: int = 1) -> None:
            super().__init__()
            self.save_hyperparameters(ignore="layer")
            self.layer = layer

    class Data(raylight.LightningDataModule):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.save_hyperparameters()

    model = Model(lr=0.1, batch_size=8, layer=torch.nn.Linear(1, 1))
    model.hparams["layer"] = "not this one"

    assert (model.lr, model.batch_size, Data(5).size) == (0.1, 2, 5)
    assert isinstance(model.layer, torch.nn.Linear)
    assert model.layer.weight is next(model.parameters())
    model.lr = 3
    assert (model.lr, model.hparams.lr) == (3, 0.1)
    assert copy.deepcopy(model).hparams == model.hparams
    for owner, name in ((model, "missing"), (model, "_hidden"), (Data(5), "missing")):
        with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
            getattr(owner, name)


def test_class_only() -> None:
    class Model:
        @class_only
        def load(cls, stream: Any) -> "Model":
            """Read one."""
            return cls()

    class Child(Model):
        pass

    assert type(Child.load(io.BytesIO())) is Child
    assert Child().load.__doc__ == "Read one."
    with pytest.raises(TypeError, match=r"`Child\.load` cannot be called on an instance"):
        Child().load(io.BytesIO())
