"""Enumerations whose members are strings."""

from __future__ import annotations

import warnings
from enum import Enum

from typing_extensions import Self


class LightningEnum(str, Enum):
    """A string that is one of a few; compares equal to its value whatever the case."""

    @classmethod
    def from_str(cls, value: str, source: str = "key") -> Self:
        """The member that ``value`` names.

        Args:
            value: A member's name, in any case, or its value.
            source: Which of the two: "key", "value", or "any".

        Raises:
            ValueError: There is no such member.
        """
        for name, member in cls.__members__.items():
            if source in ("key", "any") and name.lower() == value.lower():
                return member
        for member in cls:
            if source in ("value", "any") and member.value == value:
                return member
        raise ValueError(f"Invalid match: expected one of {cls._allowed(source)}, but got {value}.")

    @classmethod
    def try_from_str(cls, value: str, source: str = "key") -> Self | None:
        """As ``from_str``, but warns and returns None where there is no such member."""
        try:
            return cls.from_str(value, source)
        except ValueError:
            message = f"Invalid string: expected one of {cls._allowed(source)}, but got {value}."
            warnings.warn(message, stacklevel=2)
            return None

    @classmethod
    def _allowed(cls, source: str) -> list[str]:
        keys, values = list(cls.__members__), [member.value for member in cls]
        return keys if source == "key" else values if source == "value" else keys + values

    def __eq__(self, other: object) -> bool:
        text = other.value if isinstance(other, Enum) else other
        return str(self.value).lower() == str(text).lower()

    def __hash__(self) -> int:
        return hash(self.value.lower())


class GradClipAlgorithmType(LightningEnum):
    """Values of ``Trainer(gradient_clip_algorithm=...)``."""

    VALUE = "value"
    """Each element of a gradient by itself."""
    NORM = "norm"
    """All gradients together, by their total norm."""

    @staticmethod
    def supported_type(val: str) -> bool:
        return val in GradClipAlgorithmType.supported_types()

    @staticmethod
    def supported_types() -> list[str]:
        return [member.value for member in GradClipAlgorithmType]
