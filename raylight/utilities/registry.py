"""Classes by name, so that a Trainer's flag can name one of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Registry:
    """Classes of one kind by name, each with a description and the arguments to make it with.

    Args:
        kind: Such as "strategy": the key of the class in an entry, beside "description" and "init_params".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, dict[str, Any]] = {}

    def register(
        self,
        name: str,
        cls: Callable[..., Any] | None = None,
        description: str | None = None,
        override: bool = False,
        **init_params: Any,
    ) -> Callable[..., Any]:
        """Let ``name`` stand for ``cls(**init_params)``; without ``cls``, a decorator of the class.

        Args:
            name: What the Trainer's flag will say.
            cls: The class; it is returned.
            description: For whoever reads the entry.
            override: Take the place of an entry of this name.
            **init_params: Arguments of the class.

        Raises:
            TypeError: The name is no text.
            ValueError: The name is taken, and ``override`` is False.
        """
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a str, found {name}")
        if name in self and not override:
            raise ValueError(f"'{name}' is already present in the registry. HINT: Use `override=True`.")

        def enter(entered: Callable[..., Any]) -> Callable[..., Any]:
            text = description if description is not None else getattr(entered, "description", "")
            entry = {self.kind: entered, f"{self.kind}_name": name, "description": text, "init_params": init_params}
            self._entries[name] = entry
            return entered

        return enter if cls is None else enter(cls)

    def get(self, name: str, default: Any = None) -> Any:
        """What ``name`` stands for, newly made.

        Raises:
            KeyError: There is no such name, and no default.
        """
        if name not in self:
            if default is not None:
                return default
            raise KeyError(f"'{name}' not found in registry. Available names: {', '.join(sorted(self)) or 'none'}")
        entry = self[name]
        return entry[self.kind](**entry["init_params"])

    def remove(self, name: str) -> None:
        """Forget ``name``."""
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
