from __future__ import annotations

from typing import Any

import pytest

from raylight.callbacks import Callback, LambdaCallback
from raylight.callbacks.base import HOOKS
from raylight.utilities.exceptions import MisconfigurationException


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_can_be_given(hook: str) -> None:
    calls: list[tuple[Any, ...]] = []
    callback = LambdaCallback(**{hook: lambda *args: calls.append(args)})
    getattr(callback, hook)(1, 2)
    assert calls == [(1, 2)]


def test_unknown_hooks_are_all_named_with_a_guess() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        LambdaCallback(on_train_epoch_ends=print, on_fit_start=print, xyz=print)
    assert str(caught.value) == "Unknown hooks: on_train_epoch_ends (did you mean on_train_epoch_end?), xyz."


def test_none_is_no_function() -> None:
    callback = LambdaCallback(on_fit_start=None)
    assert type(callback).on_fit_start is Callback.on_fit_start
    assert "on_fit_start" not in vars(callback)
