"""A configuration names classes of installed packages and of the user's script; nothing else is imported or called."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from torch import nn

import raylight as pl
from raylight.cli import LightningCLI, SaveConfigCallback, instantiate_class
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.import_policy import ImportPolicy, enforced

MARKER = "something_ran"
DANGEROUS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn")
_watching: list[list[str]] = []
"""Where the audit hook notes dangerous events; it cannot be removed."""


def _note(event: str, args: Any) -> None:
    if _watching and event in DANGEROUS:
        _watching[-1].append(event)


sys.addaudithook(_note)


class Model(pl.LightningModule):
    def __init__(
        self,
        part: nn.Module | None = None,
        function: Callable[..., Any] | None = None,
        cls: type[nn.Module] | None = None,
        anything: Any = None,
        parts: list[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.part, self.function, self.cls, self.anything = part, function, cls, anything
        self.parts = parts


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own with, outside of it and importable, the modules ``outside`` and ``used``. None may run."""
    project = tmp_path / "project"
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "used").mkdir(parents=True)
    project.mkdir()
    marker = tmp_path / MARKER
    code = f"open({str(marker)!r}, 'w').close()\nimport torch, raylight\nclass Part(torch.nn.ReLU): ...\n"
    code += "class Net(raylight.LightningModule): ...\n"
    (elsewhere / "outside.py").write_text(code)
    (elsewhere / "used" / "evil.py").write_text(code)
    (elsewhere / "used" / "__init__.py").write_text("import torch\nclass Part(torch.nn.Identity): ...\n")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(elsewhere))
    monkeypatch.setattr(sys, "argv", ["any.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    _watching.append([])
    yield
    for name in ("outside", "used", "used.evil"):
        sys.modules.pop(name, None)
    assert _watching.pop() == []


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / MARKER


def make(*args: str, model: Any = Model, **kwargs: Any) -> LightningCLI:
    trainer = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    return LightningCLI(model, args=[*trainer, *args], run=False, **kwargs)


def spec(path: str, **init_args: Any) -> str:
    return json.dumps({"class_path": path, "init_args": init_args})


def hostile(marker: Path) -> dict[str, str]:
    """Class paths that would leave ``marker``, or run a command, each with its arguments."""
    touch = f"touch {marker}"
    return {
        "os.system": spec("os.system", command=touch),
        "posix.system": spec("posix.system", command=touch),
        "subprocess.Popen": spec("subprocess.Popen", args=["touch", str(marker)]),
        "builtins.exec": spec("builtins.exec", source=f"open({str(marker)!r}, 'w')"),
        "torch.os.system": spec("torch.os.system", command=touch),
        "raylight.trainer.os.system": spec("raylight.trainer.os.system", command=touch),
        "importlib.import_module": spec("importlib.import_module", name="outside"),
        "outside.Part": spec("outside.Part"),
        "outside.Net": spec("outside.Net"),
        "used.evil.Part": spec("used.evil.Part"),
        "used.evil": spec("used.evil"),
    }


PATHS = list(hostile(Path("x")))
PLACES = ["trainer.callbacks", "trainer.logger", "trainer.strategy", "data", "optimizer", "lr_scheduler"]
PLACES += ["model.part", "model.parts", "model.function", "model.cls"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", PLACES)
def test_no_argument_takes_a_hostile_class(place: str, path: str, marker: Path) -> None:
    importlib.import_module("used")  # the program's own doing; used.evil is not imported by it
    value = hostile(marker)[path]
    for given in (value, path, f"[{value}]"):
        with pytest.raises((SystemExit, ValueError)) as raised:  # strategy= takes any text, and then knows none such
            make(f"--{place}={given}")
        assert raised.type is (ValueError if place == "trainer.strategy" else SystemExit)
    assert not marker.exists()
    assert "outside" not in sys.modules
    assert "used.evil" not in sys.modules


@pytest.mark.parametrize("path", PATHS)
def test_nor_does_the_model_itself(path: str, marker: Path) -> None:
    config = {"model": json.loads(hostile(marker)[path]), "trainer": {"logger": False}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    Path("model.yaml").write_text(yaml.safe_dump(config["model"]))
    for args in (["--config=config.yaml"], ["--model=model.yaml"], [f"--model={path}"], [f"--model.help={path}"]):
        with pytest.raises(SystemExit) as exit_:
            LightningCLI(args=args, run=False)
        assert exit_.value.code == 2
    with pytest.raises(SystemExit):
        LightningCLI(args=config, run=False)
    assert not marker.exists()


@pytest.mark.parametrize("path", PATHS)
def test_an_argument_without_a_type_keeps_data(path: str, marker: Path) -> None:
    cli = make(f"--model.anything={hostile(marker)[path]}")

    assert cli.model.anything["class_path"] == path
    assert make(f"--model.anything={path}").model.anything == path
    assert not marker.exists()


def test_environment_variables_neither(monkeypatch: pytest.MonkeyPatch, marker: Path) -> None:
    monkeypatch.setenv("PL_MODEL__PART", "outside.Part")

    with pytest.raises(SystemExit):
        make(parser_kwargs={"default_env": True})
    assert not marker.exists()


def test_the_refusal_says_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        make("--model.part=outside.Part")

    text = " ".join(capsys.readouterr().err.split())
    assert "may not name 'outside.Part': 'outside' comes from" in text
    assert str(tmp_path / "elsewhere" / "outside.py") in text
    assert "--allow-import outside" in text


@pytest.mark.parametrize("where", ["--allow-import outside", "--allow-import=outside", "argument"])
def test_what_is_allowed(where: str, marker: Path) -> None:
    if where == "argument":
        cli = make("--model.part=outside.Part", allow_import=["outside"])
    else:
        cli = make("--model.part=outside.Part", *where.split(" "))

    assert type(cli.model.part).__name__ == "Part"
    assert marker.exists()
    assert "allow" not in cli.parser.dump(cli.config)
    sys.modules.pop("outside")
    with pytest.raises(SystemExit):
        make("--model.part=outside.Part")


def test_what_is_denied_to_all_but_named_by_a_person(marker: Path) -> None:
    """In a sub-command too, whose configuration is then saved."""
    args = ["fit", "--model.function=functools.lru_cache", "--trainer.logger=false", "--trainer.launcher=local"]
    with pytest.raises(SystemExit):
        LightningCLI(Model, args=args)

    class Idle(LightningCLI):
        def fit(self, **kwargs: Any) -> None:
            saver = next(each for each in self.trainer.callbacks if isinstance(each, SaveConfigCallback))
            self.saved = saver.parser.dump(self.config.fit)

    cli = Idle(Model, args=[*args, "--allow-import", "functools.lru_cache", "--trainer.enable_checkpointing=false"])
    assert cli.model.function is functools.lru_cache
    assert "functools.lru_cache" in cli.saved


def test_a_configuration_allows_nothing(marker: Path) -> None:
    for key in ("allow_import", "allow-import"):
        Path("config.yaml").write_text(yaml.safe_dump({key: ["outside"], "model": {"part": "outside.Part"}}))
        with pytest.raises(SystemExit):
            make("--config=config.yaml")
    assert not marker.exists()


def test_what_the_program_has_imported() -> None:
    importlib.import_module("used")

    assert type(make("--model.part=used.Part").model.part).__name__ == "Part"


def test_packages_and_the_scripts_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text("import torch\nclass Part(torch.nn.Identity): ...\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    try:
        assert type(make("--model.part=mine.Part").model.part).__name__ == "Part"
    finally:
        sys.modules.pop("mine", None)
    part = make("--model.part=torchvision.ops.Permute", "--model.part.dims=[1,0]").model.part
    assert part.dims == [1, 0]


def test_a_class_of_another_type_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make("--model.part=fractions.Fraction")

    assert "does not correspond to a subclass of Module" in " ".join(capsys.readouterr().err.split())


def test_others_who_use_jsonargparse_are_left_alone(marker: Path) -> None:
    make("--model.part=torch.nn.ReLU")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=nn.Module)
    parsed = parser.parse_args(["--part=outside.Part"])

    assert parsed.part.class_path == "outside.Part"
    assert marker.exists()


def test_policies_within_policies() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=nn.Module)
    with enforced(ImportPolicy()), enforced(ImportPolicy(allow=["outside"])), pytest.raises(Exception, match="may not"):
        parser.parse_args(["--part=outside.Part"])
    allowed = ImportPolicy(allow=["outside"])
    with enforced(allowed), enforced(ImportPolicy(only_imported=True)), pytest.raises(Exception, match="not imported"):
        parser.parse_args(["--part=outside.Part"])


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "outside.Part"])
def test_instantiate_class(path: str, marker: Path) -> None:
    with pytest.raises(MisconfigurationException, match=f"may not name '{path}'"):
        instantiate_class((), {"class_path": path})
    with pytest.raises(MisconfigurationException, match="is no class"):
        instantiate_class((), {"class_path": "torch.relu"})
    assert not marker.exists()


def test_a_package_that_hides_one_of_pythons(tmp_path: Path, marker: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "this.py").write_text((elsewhere / "outside.py").read_text())
    importlib.invalidate_caches()
    with pytest.raises(SystemExit):
        make("--model.part=this.Part")
    assert not marker.exists()


def test_names_in_a_policy() -> None:
    policy = ImportPolicy(allow=["os.path", "outside"])
    assert policy.problem("os.path.join") is None
    assert policy.problem("outside.Part") is None
    assert policy.problem("outsider.Part") is None  # there is no such package
    assert policy.problem("os.system") is not None
    assert policy.problem("torch.nn.Linear") is None
    assert policy.problem("datetime.timedelta") is None
    assert policy.problem("used.Part") is not None
    assert policy.problem("__main__.no_such_name") is None
    assert policy.problem("math.sqrt") is None
    assert policy.problem("zlib.compress") is None
    assert ImportPolicy(only_imported=True).problem("torch.nn.Linear") is None
    assert ImportPolicy(only_imported=True).problem("torch.nn.NoSuchModule") is not None
