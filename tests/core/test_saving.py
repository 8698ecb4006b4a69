import enum
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from raylight.core import saving
from raylight.core.saving import load_hparams_file
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.parsing import AttributeDict


class Kind(str, enum.Enum):
    SMALL = "a small one"


HPARAMS: dict[str, Any] = {"lr": 0.5, "name": "a b", "flag": True, "nested": {"a": [1, None]}, "kind": Kind.SMALL}


def test_files_of_hparams(tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text("lr: 0.5\nlayers: !!python/tuple\n- 1\n- - 2\nnested:\n  a: b\n")
    (tmp_path / "hparams.csv").write_text('key,value\nlr,0.5\nname,a b\nlayers,"(1, 2)"\n')

    assert load_hparams_file(tmp_path / "hparams.yaml") == {"lr": 0.5, "layers": (1, [2]), "nested": {"a": "b"}}
    assert load_hparams_file(tmp_path / "hparams.csv") == {"lr": 0.5, "name": "a b", "layers": (1, 2)}


def test_empty_hparams_files(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.csv"):
        (tmp_path / name).write_text("")
        assert load_hparams_file(tmp_path / name) == {}


def test_hparams_file_as_lightning_writes_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.core.saving import save_hparams_to_tags_csv, save_hparams_to_yaml
    hparams = {"lr": 0.5, "layers": (1, 2), "name": "a b", "flag": True}
    save_hparams_to_yaml(tmp_path / "a.yaml", dict(hparams))
    save_hparams_to_tags_csv(tmp_path / "a.csv", hparams)

    assert load_hparams_file(tmp_path / "a.yaml") == hparams
    assert load_hparams_file(tmp_path / "a.csv") == hparams


def test_hostile_yaml_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "a.yaml").write_text(f"lr: !!python/object/apply:os.mkdir [{canary}]\n")

    with pytest.raises(MisconfigurationException, match="without running code"):
        load_hparams_file(tmp_path / "a.yaml")

    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "message"), [("a.yaml", "does not exist"), ("a.json", ".csv, .yml or .yaml is required")]
)
def test_unusable_hparams_file(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        load_hparams_file(tmp_path / name)


@pytest.mark.parametrize("make", [dict, AttributeDict, lambda content: Namespace(**content)])
def test_round_trip(make: Any, tmp_path: Path) -> None:
    saving.save_hparams_to_yaml(tmp_path / "a.yaml", make(HPARAMS))
    saving.save_hparams_to_tags_csv(str(tmp_path / "a.csv"), make(HPARAMS))

    assert saving.load_hparams_from_yaml(str(tmp_path / "a.yaml")) == {**HPARAMS, "kind": "SMALL"}
    from_csv = saving.load_hparams_from_tags_csv(tmp_path / "a.csv")
    assert from_csv.pop("kind").endswith(("SMALL", "a small one"))  # as this Python prints it
    assert from_csv == {name: value for name, value in HPARAMS.items() if name != "kind"}


def test_lightning_reads_our_files(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.core import saving as theirs
    saving.save_hparams_to_yaml(tmp_path / "a.yaml", HPARAMS)
    saving.save_hparams_to_tags_csv(tmp_path / "a.csv", HPARAMS)

    assert theirs.load_hparams_from_yaml(tmp_path / "a.yaml") == saving.load_hparams_from_yaml(tmp_path / "a.yaml")
    assert theirs.load_hparams_from_tags_csv(tmp_path / "a.csv") == saving.load_hparams_from_tags_csv(
        tmp_path / "a.csv"
    )


def test_value_without_plain_form_is_left_out(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Skipping 'loss' parameter because it is not possible to safely dump to YAML"):
        saving.save_hparams_to_yaml(tmp_path / "a.yaml", {"lr": 1, "root": Path("a"), "loss": object()})

    assert saving.load_hparams_from_yaml(tmp_path / "a.yaml") == {"lr": 1, "root": "a"}


@pytest.mark.parametrize("save", [saving.save_hparams_to_yaml, saving.save_hparams_to_tags_csv])
def test_what_cannot_be_saved(save: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Missing folder: .*nowhere"):
        save(tmp_path / "nowhere" / "file", {})
    with pytest.raises(TypeError, match="hparams must be dictionary"):
        save(tmp_path / "file", [1])


@pytest.mark.parametrize("load", [saving.load_hparams_from_yaml, saving.load_hparams_from_tags_csv])
def test_missing_file_gives_nothing(load: Any, tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="Missing Tags: "):
        assert load(tmp_path / "nothing") == {}


def test_yaml_that_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- 1\n")
    with pytest.raises(MisconfigurationException, match="must hold a mapping"):
        load_hparams_file(tmp_path / "a.yaml")


def test_update_hparams() -> None:
    hparams: dict[str, Any] = {"c": 4, "a": {"b": 2, "d": 1}}
    saving.update_hparams(hparams, {"a": {"b": 4}, "c": 7, "new": {}})
    assert hparams == {"c": 7, "a": {"b": 4, "d": 1}, "new": {}}
