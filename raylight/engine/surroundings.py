"""What a process of the driver's script would have around it, for the processes that do a part of its work."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch

from raylight.utilities import aliases, seed
from raylight.utilities.environment import changed_environment


@dataclass(frozen=True)
class Surroundings:
    """The driver's, as they were when this was made."""

    cwd: str
    argv: list[str]
    """The script and its arguments, as hooks may read them."""
    environment: dict[str, str]
    """Variables that the script has set."""
    in_lightnings_place: bool
    """Imports of Lightning mean raylight: the script was started with ``raylight run``."""
    rng_state: dict[str, Any]
    default_dtype: torch.dtype
    matmul_precision: str

    @classmethod
    def here(cls) -> Surroundings:
        """Runs on the driver."""
        return cls(
            cwd=os.getcwd(),
            argv=sys.argv.copy(),
            environment=changed_environment(),
            in_lightnings_place=aliases.installed(),
            rng_state=seed.rng_state(include_cuda=False),
            default_dtype=torch.get_default_dtype(),
            matmul_precision=torch.get_float32_matmul_precision(),
        )

    def adopt(self) -> None:
        """Runs in every worker, before anything of the script's is unpickled."""
        os.environ.update(self.environment)
        sys.argv[:] = self.argv
        if self.in_lightnings_place:
            aliases.install()
        if os.path.isdir(self.cwd):
            os.chdir(self.cwd)

    def adopt_numbers(self) -> None:
        """Runs in every worker, before each job: torch's settings, and random numbers as the script would have them."""
        torch.set_default_dtype(self.default_dtype)
        torch.set_float32_matmul_precision(self.matmul_precision)
        seed.set_rng_state(self.rng_state)
