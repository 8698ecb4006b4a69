"""Hyperparameters in files: ``hparams.yaml``, and ``.csv`` with the columns key and value."""

from __future__ import annotations

import ast
import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from enum import Enum
from typing import Any, BinaryIO

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.redaction import without_secrets


def load_hparams_from_yaml(config_yaml: storage.PathOrURI, use_omegaconf: bool = True) -> dict[str, Any]:
    """Hyperparameters from a YAML file; a file that is missing gives none, and a warning.

    Args:
        config_yaml: A path or URI.
        use_omegaconf: Makes no difference: the result is a plain dict, which ``OmegaConf.create`` takes.

    Raises:
        MisconfigurationException: The file asks for objects that only code can make, or is no YAML mapping.
    """
    text = _read(config_yaml)
    return {} if text is None else parse_yaml(text, config_yaml)


def save_hparams_to_yaml(
    config_yaml: storage.PathOrURI, hparams: Mapping[str, Any] | Namespace, use_omegaconf: bool = True
) -> None:
    """Write hyperparameters so that any safe YAML reader gives them back as plain types.

    Enum members are written by name, paths as text. A value without a plain form is left out, with a warning.

    Args:
        config_yaml: A path or URI in a folder that exists.
        hparams: Their values may be nested dicts and lists.
        use_omegaconf: Makes no difference: an OmegaConf container is written as the mapping that it is.

    Raises:
        RuntimeError: There is no such folder.
        TypeError: ``hparams`` is neither a mapping nor a Namespace.
    """
    import yaml

    _check_folder(config_yaml)
    written = {}
    for name, value in _as_mapping(hparams).items():
        plain, replaced = checkpoint_format.plain_value(value.name if isinstance(value, Enum) else value)
        try:
            yaml.safe_dump(plain)
        except yaml.YAMLError:
            replaced = [name]
        if replaced:
            rank_zero_warn(f"Skipping '{name}' parameter because it is not possible to safely dump to YAML.")
        else:
            written[name] = plain
    _write(config_yaml, yaml.safe_dump(written))


def load_hparams_from_tags_csv(tags_csv: storage.PathOrURI) -> dict[str, Any]:
    """Hyperparameters from a CSV file; literals of Python become what they stand for, anything else stays text.

    A file that is missing gives none, and a warning.
    """
    text = _read(tags_csv)
    return {} if text is None else parse_csv(text)


def save_hparams_to_tags_csv(tags_csv: storage.PathOrURI, hparams: Mapping[str, Any] | Namespace) -> None:
    """Write hyperparameters as rows of key and value.

    Raises:
        RuntimeError: There is no such folder.
        TypeError: ``hparams`` is neither a mapping nor a Namespace.
    """
    _check_folder(tags_csv)
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([("key", "value"), *_as_mapping(hparams).items()])
    _write(tags_csv, rows.getvalue())


def update_hparams(hparams: dict[str, Any], updates: Mapping[str, Any]) -> None:
    """Put ``updates`` into ``hparams``, in place; nested dicts are merged."""
    for name, value in updates.items():
        if isinstance(value, dict) and isinstance(hparams.get(name), dict):
            update_hparams(hparams[name], value)
        else:
            hparams[name] = value


def load_hparams_file(path: storage.PathOrURI) -> dict[str, Any]:
    """What ``load_from_checkpoint(hparams_file=...)`` reads: a ``.yaml`` or ``.csv`` file.

    Raises:
        MisconfigurationException: There is no such file, its name ends otherwise, or it cannot be read safely.
    """
    extension = str(path).lower().rpartition(".")[2]
    if extension not in ("yaml", "yml", "csv"):
        raise MisconfigurationException(f"hparams_file: .csv, .yml or .yaml is required, not {path}.")
    if not storage.exists(path):
        raise MisconfigurationException(f"hparams_file {path} does not exist.")
    return load_hparams_from_tags_csv(path) if extension == "csv" else load_hparams_from_yaml(path)


def parse_csv(text: str) -> dict[str, Any]:
    """Rows of key and value, below the names of the columns."""

    def convert(value: str) -> Any:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value

    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    return {key: convert(value) for key, value in rows}


def parse_yaml(text: str, source: storage.PathOrURI) -> dict[str, Any]:
    """A mapping of plain types, and tuples, which Lightning writes with a tag of Python's.

    Raises:
        MisconfigurationException: It is something else; ``source`` is named.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader, and tuples."""

    def as_tuple(loader: Any, node: Any) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", as_tuple)
    try:
        content = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise MisconfigurationException(
            f"{source} cannot be read without running code from it, or is no YAML: {' '.join(str(error).split())} "
            "Write the values there as numbers, text, lists and mappings."
        ) from error
    if not isinstance(content, dict | None):
        raise MisconfigurationException(f"{source} must hold a mapping of names to values, not a {type(content)}.")
    return content or {}


def _read(path: storage.PathOrURI) -> str | None:
    try:
        with storage.open_read(path) as stream:
            return stream.read().decode()
    except FileNotFoundError:
        rank_zero_warn(f"Missing Tags: {path}.", category=RuntimeWarning)
        return None


def _write(path: storage.PathOrURI, text: str) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(text.encode())

    storage.write_atomic(path, write)


def _check_folder(path: storage.PathOrURI) -> None:
    folder = storage.parent(path)
    if folder and not storage.exists(folder):
        raise RuntimeError(f"Missing folder: {folder}. Make it first.")


def _as_mapping(hparams: Any) -> Mapping[str, Any]:
    """Without secrets."""
    if isinstance(hparams, Namespace):
        hparams = vars(hparams)
    if not isinstance(hparams, Mapping):
        raise TypeError(f"hparams must be dictionary, or a Namespace, not {type(hparams).__name__}.")
    return without_secrets(hparams)
