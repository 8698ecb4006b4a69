"""Enumerations behave as Lightning's."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.utilities import enums as lightnings

from raylight.utilities import enums as ours

BOTH = pytest.mark.parametrize("enums", [lightnings, ours], ids=["lightning", "raylight"])


@BOTH
def test_members_equal_their_values_in_any_case(enums: Any) -> None:
    norm = enums.GradClipAlgorithmType.NORM
    assert norm == "norm" == norm
    assert norm == "NORM"
    assert norm != "value"
    assert norm != enums.GradClipAlgorithmType.VALUE
    assert {norm: 1}["norm"] == 1


@BOTH
def test_from_str(enums: Any) -> None:
    kinds = enums.GradClipAlgorithmType
    assert kinds.from_str("Norm") is kinds.NORM
    assert kinds.from_str("value", source="value") is kinds.VALUE
    with pytest.raises(ValueError, match="expected one of .*, but got cube"):
        kinds.from_str("cube", source="any")
    with pytest.warns(UserWarning, match="but got cube"):
        assert kinds.try_from_str("cube") is None


@BOTH
def test_supported_types(enums: Any) -> None:
    assert enums.GradClipAlgorithmType.supported_types() == ["value", "norm"]
    assert enums.GradClipAlgorithmType.supported_type("norm")
    assert not enums.GradClipAlgorithmType.supported_type("cube")
