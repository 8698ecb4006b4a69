"""What must not be written: passwords, tokens and keys, known by their names or from the environment.

A text is secret because of its *name*, ``{"api_key": "..."}``, wherever it comes from; or because of its *value*,
when that is the value of an environment variable such as ``WANDB_API_KEY`` or ``DB_PASSWORD``, wherever it stands.
Numbers are never looked at.
"""

from __future__ import annotations

import functools
import os
import re
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

REDACTED = "<redacted>"
"""Stands in place of a secret."""
SHORTEST = 8
"""Characters of a value that is looked for in texts: shorter ones are common words."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = re.compile(
    "passwords?|passwd|passphrase|secrets?|credentials?|apikey|authorization|accesstoken|authtoken|privatekey|"
    "secretkey|accesskey|bearer"
)
_KINDS_OF_KEY = re.compile(
    "api|access|private|secret|auth|encryption|signing|ssh|account|service|master|license|storage|subscription|"
    "session|deploy"
)
_ABOUT_IT = re.compile("path|file|filename|dir|name|env|var|variable|type|length|len|size|dim")
"""Last word of what only tells where a secret is, or of what kind: ``password_file``."""
_OF_TEXT = re.compile(
    "pad|padding|eos|bos|cls|sep|unk|unknown|mask|masked|special|start|end|begin|stop|sos|eot|eod|boi|eoi|image|img|"
    "audio|video|text|word|subword|class|dist|distillation|patch|register|query|prompt|blank|split|separator|decoder|"
    "encoder|new|next|first|last|num|max|min|per|pool|additional|extra|context|target|source|sentinel|global|"
    "language|lang|system|assistant|human|by|memory|latent|action|state"
)
"""First word of a token that is a part of a text, or of a sequence."""
_VARIABLE = re.compile(r"(^|_)(KEY|TOKEN|SECRET)$|PASSWORD$|PASSWD$", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a text of this name is a secret: ``db.password``, ``apiKey``, ``hf-token``; not ``pad_token``."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or _ABOUT_IT.fullmatch(words[-1]):
        return False
    if any(map(_ALWAYS.fullmatch, words)) or ("pwd" in words and len(words) > 1):
        return True
    if words[-1] == "token":
        return len(words) == 1 or not _OF_TEXT.fullmatch(words[-2])
    kinds = [kind for kind, word in zip(words, words[1:], strict=False) if word in ("key", "keys", "tokens")]
    return any(map(_KINDS_OF_KEY.fullmatch, kinds)) or ("auth", "header") in zip(words, words[1:], strict=False)


def secrets_of_environment() -> dict[str, str]:
    """Value -> name of each variable that holds a secret."""
    return {
        value: name for name in os.environ if _is_secret_variable(name) and _is_long(value := os.environ.get(name, ""))
    }


@functools.lru_cache(maxsize=1024)
def _is_secret_variable(name: str) -> bool:
    return _VARIABLE.search(name) is not None or is_secret_name(name)


def _is_long(value: str) -> bool:
    """Worth being looked for; a path that exists tells where a secret is."""
    return len(value) >= SHORTEST and not (os.path.isabs(value) and os.path.exists(value))


def redact_text(text: str) -> str:
    """``text`` without the secrets of the environment."""
    return cleaner()(text)


def cleaner() -> Callable[[str], str]:
    """``redact_text`` for many texts: the environment is looked at once."""
    secrets = secrets_of_environment()
    return functools.partial(_pattern(frozenset(secrets)).sub, REDACTED) if secrets else str


def redact_texts(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of ``print`` or ``log.info``: one whose text holds a secret becomes that text, without it."""
    clean = cleaner()
    if clean is str:
        return values
    texts = [str(value) for value in values]
    return tuple(value if clean(text) == text else clean(text) for value, text in zip(values, texts, strict=True))


@functools.lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(each) for each in sorted(secrets, key=len, reverse=True)))


def redact(value: Any) -> tuple[Any, list[str]]:
    """``value`` without secrets, and what they were: paths such as "db.password", or "$NAME" of a variable.

    Without secrets it is ``value`` itself. Else mappings, Namespaces and dataclasses in it have become dicts.
    """
    walk = _Walk()
    copied = walk.copy(value, "", is_secret=False)
    return (copied, list(dict.fromkeys(walk.found))) if walk.found else (value, [])


class _Walk:
    """Copies containers, each once: what holds itself ends, too."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._secrets = secrets_of_environment()
        self._copies: dict[tuple[int, bool], Any] = {}
        self._alive: list[Any] = []  # else an id could come again

    def copy(self, value: Any, path: str, is_secret: bool) -> Any:
        if isinstance(value, str):
            return self._copy_text(value, path, is_secret)
        parts = vars(value) if isinstance(value, SimpleNamespace) else named_parts(value)
        if parts is None and not isinstance(value, list | tuple | set | frozenset):
            return value
        seen = id(value), is_secret
        if seen in self._copies:
            return self._copies[seen]
        self._alive.append(value)
        if parts is not None:
            named = self._copies[seen] = {}
            for name, part in parts.items():
                below = f"{path}.{name}" if path else str(name)
                key = self._copy_text(name, path, False) if isinstance(name, str) else name
                named[key] = self.copy(part, below, is_secret or (isinstance(name, str) and is_secret_name(name)))
            return named
        if isinstance(value, list):
            items = self._copies[seen] = []
            items.extend(self.copy(each, path, is_secret) for each in value)
            return items
        kind = tuple if isinstance(value, tuple) else type(value)  # a named tuple becomes a plain one
        return kind(self.copy(each, path, is_secret) for each in value)

    def _copy_text(self, text: str, path: str, is_secret: bool) -> str:
        if is_secret and text not in ("", REDACTED) and not (path.lower().endswith("token") and _is_marked(text)):
            self.found.append(path)
            return REDACTED
        if not self._secrets:
            return text
        cleaned = _pattern(frozenset(self._secrets)).sub(REDACTED, text)
        if cleaned != text:
            self.found += [f"${name}" for value, name in self._secrets.items() if value in text]
        return cleaned


def _is_marked(text: str) -> bool:
    """Such as "[CLS]" or "</s>": a token of a text."""
    return (text[0], text[-1]) in (("[", "]"), ("<", ">"))


def named_parts(value: Any) -> Mapping[Any, Any] | None:
    """A mapping of what has named parts; None for anything else."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Namespace):
        return vars(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def paths_of_redacted(value: Any, path: str = "") -> list[str]:
    """Where in plain values something was redacted."""
    if isinstance(value, str):
        return [path] if REDACTED in value else []
    if isinstance(value, Mapping):
        found = [paths_of_redacted(part, f"{path}.{name}" if path else str(name)) for name, part in value.items()]
    elif isinstance(value, list | tuple):
        found = [paths_of_redacted(part, path) for part in value]
    else:
        return []
    return [each for paths in found for each in paths]
