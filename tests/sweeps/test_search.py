from __future__ import annotations

import random
from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from raylight.sweeps.record import FAILED, FINISHED, Point, SweepRecord
from raylight.sweeps.schedulers import Rules, make_scheduler, pauses, replay
from raylight.sweeps.search import Suggestions, draw, make_searcher
from raylight.utilities.exceptions import MisconfigurationException

SPACE = {"model.lr": tune.loguniform(1e-4, 1.0), "a.b": tune.grid_search([1, 2]), "fixed": "x"}


def test_draws_are_those_of_their_seed() -> None:
    drawn = draw(SPACE, 3, seed=1)
    assert len(drawn) == 6
    assert [params["a.b"] for params in drawn] == [1, 2] * 3
    assert {params["fixed"] for params in drawn} == {"x"}
    assert len({params["model.lr"] for params in drawn}) == 6
    assert all(1e-4 <= params["model.lr"] <= 1 and type(params["model.lr"]) is float for params in drawn)
    assert draw(SPACE, 3, seed=1) == drawn != draw(SPACE, 3, seed=2)


def test_without_a_seed_it_is_pythons() -> None:
    random.seed(5)
    first = draw(SPACE, 2, None)
    assert draw(SPACE, 2, None) != first
    random.seed(5)
    assert draw(SPACE, 2, None) == first


class Counting(Searcher):
    """Suggests 1, 2, 3 ..., and notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []
        self.count = 0

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        self.told.append((metric, mode, sorted(config)))
        return True

    def suggest(self, trial_id: str) -> Any:
        self.count += 1
        return {"model.lr": float(self.count)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told.append((trial_id, None if result is None else result["loss"], error))

    def add_evaluated_point(self, parameters: Any, value: float, *_: Any, **__: Any) -> None:
        self.told.append((parameters, value))

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


def test_planned_trials_come_first_then_the_searchers() -> None:
    space = {"model.lr": tune.uniform(0, 9), "fixed": "x"}
    record = SweepRecord("folder", "loss", "min", {})
    done, waiting = record.add({"model.lr": 7.0, "fixed": "x"}), record.add({"model.lr": 8.0, "fixed": "x"})
    done.status = FINISHED
    done.reports.append({"loss": 0.25})
    done.tell_of_checkpoint("c", "loss", "min")
    searcher: Any = Counting()
    made = make_searcher(searcher, space, "loss", "min", None)
    suggestions = Suggestions(record, {"fixed": "x"}, made, 4)
    suggestions.learn_from_record()
    assert suggestions.num_left == 3
    assert suggestions.suggest("a") == waiting.params
    assert suggestions.suggest("b") == {"model.lr": 1.0, "fixed": "x"}
    assert suggestions.suggest("c") == {"model.lr": 2.0, "fixed": "x"}
    assert suggestions.suggest("d") == Searcher.FINISHED
    assert suggestions.names == {"a": "trial_0001", "b": "trial_0002", "c": "trial_0003"}
    suggestions.on_trial_complete("a", {"loss": 1.0})  # not the searcher's own
    suggestions.on_trial_complete("b", {"loss": 2.0})
    suggestions.on_trial_complete("c", {})  # it ended without a report
    assert searcher.told == [
        ("loss", "min", ["model.lr"]),
        ({"model.lr": 7.0}, 0.25),
        ("b", 2.0, False),
        ("c", None, True),
    ]


def test_adaptive_searches_refuse() -> None:
    with pytest.raises(MisconfigurationException, match="grid_search cannot be used with an adaptive search: a.b"):
        make_searcher(Counting(), SPACE, "loss", "min", None)
    with pytest.raises(MisconfigurationException, match='must be "random", "optuna" or'):
        make_searcher(3, SPACE, "loss", "min", None)


def test_optuna_is_used_or_asked_for() -> None:
    space = {"model.lr": tune.loguniform(1e-4, 1.0)}
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(ModuleNotFoundError, match=r"pip install \"raylight\[optuna\]\""):
            make_searcher("optuna", space, "loss", "min", 0)
        return
    searcher = make_searcher("optuna", space, "loss", "min", 0)
    suggested = searcher.suggest("a")
    assert suggested is not None
    assert 1e-4 <= suggested["model.lr"] <= 1.0


def test_optuna_knows_what_an_earlier_run_has_found() -> None:
    pytest.importorskip("optuna")
    record = SweepRecord("folder", "loss", "min", {})
    for number in range(12):
        trial = record.add({"model.lr": 10.0 ** (-3 - number / 50), "n": 1, "fixed": "x"})
        trial.status, trial.reports, trial.best = FINISHED, [{"loss": 1.0}], Point(0, "c", dict(trial.params))
    space = {"model.lr": tune.loguniform(1e-4, 1.0), "n": tune.choice([1, 2]), "fixed": "x"}
    searcher: Any = make_searcher("optuna", space, "loss", "min", 0)
    suggestions = Suggestions(record, {"fixed": "x"}, searcher, num_samples=14)
    suggestions.learn_from_record()
    assert [trial.value for trial in searcher._ot_study.trials] == [1.0] * 12
    assert suggestions.num_left == 2
    suggested = suggestions.suggest("a")
    assert (suggested["fixed"], suggested["n"] in (1, 2), 1e-4 <= suggested["model.lr"] <= 1.0) == ("x", True, True)
    suggestions.on_trial_complete("a", {"loss": 0.5, "training_iteration": 1})
    assert searcher._ot_study.trials[-1].value == 0.5


# ------------------------------------------------------------------------------------------------ schedulers

RULES = Rules("loss", "min", grace_period=1, reduction_factor=2, max_reports=4)


def test_schedulers_by_name() -> None:
    space = {"lr": tune.uniform(0, 1)}
    assert make_scheduler(None, space, RULES) is None
    assert [pauses(make_scheduler(name, space, RULES)) for name in ("asha", "pbt", "hyperband")] == [False, True, True]
    own = AsyncHyperBandScheduler("reports")
    assert make_scheduler(own, space, RULES) is own
    assert own._metric == "loss"
    with pytest.raises(MisconfigurationException, match="only constants"):
        make_scheduler("pbt", {"lr": 0.1}, RULES)


def test_halving_remembers_an_earlier_run() -> None:
    record = SweepRecord("folder", "loss", "min", {})
    for value, status in ((1.0, FINISHED), (2.0, FINISHED), (9.0, FAILED)):
        trial = record.add({})
        trial.status = status
        trial.reports = [{"loss": value, "reports": 1}, {"loss": value, "reports": 2}]

    class New:
        trial_id = "new"

    def verdict(loss: float, remembers: bool) -> str:
        scheduler: Any = make_scheduler("asha", {}, RULES)
        if remembers:
            replay(scheduler, record)
        scheduler.on_trial_add(None, New())
        return str(scheduler.on_trial_result(None, New(), {"reports": 1, "loss": loss}))

    assert (verdict(5.0, remembers=True), verdict(0.5, remembers=True)) == ("STOP", "CONTINUE")
    assert verdict(5.0, remembers=False) == "CONTINUE"
