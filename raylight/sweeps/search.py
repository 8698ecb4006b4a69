"""Which parameters the trials of a sweep try."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from raylight.sweeps.expressions import is_searched
from raylight.sweeps.record import OVER, SweepRecord, TrialRecord
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.secrets import redact

Params = dict[str, Any]


def draw(space: Params, num_samples: int, seed: int | None) -> list[Params]:
    """All parameters of a random search: ``num_samples`` draws for every combination of grid_search values.

    Args:
        space: By name, distributions of Ray Tune's and constants.
        num_samples: Draws.
        seed: None takes one from Python's ``random``, which ``seed_everything`` sets.
    """
    generator = np.random.RandomState(random.getrandbits(32) if seed is None else seed)
    # Ray Tune takes a dot for a path within the space.
    plain = {str(index): value for index, value in enumerate(space.values())}
    drawn = []
    for _ in range(num_samples):
        for _, spec in generate_variants({"config": plain}, random_state=generator):
            drawn.append({name: _plain(spec["config"][str(index)]) for index, name in enumerate(space)})
    return drawn


def make_searcher(search: Any, space: Params, metric: str, mode: str, seed: int | None) -> Searcher:
    """The adaptive searcher that ``sweep(search=...)`` names, or was given, knowing the space.

    Raises:
        ModuleNotFoundError: Its package is not installed.
        MisconfigurationException: There is no such searcher, or it cannot search such a space.
    """
    if isinstance(search, str):
        if search != "optuna":
            raise MisconfigurationException(f'search={search!r} must be "random", "optuna" or a Searcher of Ray Tune.')
        search = _optuna(seed)
    if not isinstance(search, Searcher):
        raise MisconfigurationException(f'search={search!r} must be "random", "optuna" or a ray.tune.search.Searcher.')
    grids = [name for name, value in space.items() if isinstance(value, dict) and is_searched(value)]
    if grids:
        raise MisconfigurationException(
            f"grid_search cannot be used with an adaptive search: {', '.join(grids)}. Use choice(...), or "
            'search="random".'
        )
    searched = {name: value for name, value in space.items() if is_searched(value)}
    search.set_search_properties(metric, mode, searched)
    return search


def _optuna(seed: int | None) -> Searcher:
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('search="optuna" needs optuna: pip install "raylight[optuna]".') from error
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=random.getrandbits(32) if seed is None else seed)


class Suggestions(Searcher):
    """Gives Ray Tune first the trials that a record has planned, then those that ``searcher`` suggests.

    Args:
        record: Gets the new ones.
        constants: Parameters that are the same in all of them.
        searcher: None: there are no others.
        num_samples: Trials in all.
    """

    def __init__(self, record: SweepRecord, constants: Params, searcher: Searcher | None, num_samples: int) -> None:
        super().__init__(metric=record.metric, mode=record.mode)
        self._record = record
        self._constants = constants
        self._searcher = searcher
        self._num_samples = num_samples
        self._planned = [trial for trial in record.trials.values() if trial.status not in OVER]
        self._searchers_own: set[str] = set()
        self.secrets = {name: value for name, value in constants.items() if redact({name: value})[1]}
        """Constants that Ray Tune, which writes down what it is given, is not told of."""
        self.names: dict[str, str] = {}
        """Ray Tune's trial id -> name in the record."""

    @property
    def num_left(self) -> int:
        """Trials that are still to be run."""
        new = self._num_samples - len(self._record.trials) if self._searcher is not None else 0
        return len(self._planned) + max(0, new)

    def suggest(self, trial_id: str) -> Any:
        if self._planned:
            return self._name(trial_id, self._planned.pop(0))
        if self._searcher is None or len(self._record.trials) >= self._num_samples:
            return Searcher.FINISHED
        suggested: Any = self._searcher.suggest(trial_id)
        if suggested is None or suggested == Searcher.FINISHED:
            return suggested
        self._searchers_own.add(trial_id)
        params = {name: _plain(value) for name, value in {**self._constants, **suggested}.items()}
        return self._name(trial_id, self._record.add(params))

    def _name(self, trial_id: str, record: TrialRecord) -> Params:
        self.names[trial_id] = record.name
        return {name: value for name, value in record.params.items() if name not in self.secrets}

    def learn_from_record(self) -> None:
        """Let the searcher know what the trials of an earlier run have found."""
        for trial in self._record.trials.values():
            value = trial.value(self._record.metric)
            if self._searcher is not None and trial.status in OVER and value is not None:
                searched = {name: each for name, each in trial.params.items() if name not in self._constants}
                self._searcher.add_evaluated_point(searched, value)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self._searcher is not None and trial_id in self._searchers_own:
            self._searcher.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self._searcher is not None and trial_id in self._searchers_own:
            without_value = not result or self._record.metric not in result
            self._searcher.on_trial_complete(trial_id, None if without_value else result, error=error or without_value)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes it into its own record of the experiment, which nobody reads."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep's own record is what it is resumed from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
