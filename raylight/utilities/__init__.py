"""What every layer may use; knows nothing of training."""

from typing import TYPE_CHECKING

import torch

from raylight.utilities.aliases import lazy_names
from raylight.utilities.apply_func import move_data_to_device
from raylight.utilities.combined_loader import CombinedLoader
from raylight.utilities.data import suggested_max_num_workers
from raylight.utilities.distributed import is_shared_filesystem
from raylight.utilities.enums import GradClipAlgorithmType, LightningEnum
from raylight.utilities.flops import measure_flops
from raylight.utilities.parameter_tying import find_shared_parameters, set_shared_parameters
from raylight.utilities.parsing import AttributeDict, is_picklable
from raylight.utilities.rank_zero import (
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
)
from raylight.utilities.warnings import disable_possible_user_warnings

__all__ = [
    "AttributeDict",
    "CombinedLoader",
    "GradClipAlgorithmType",
    "LightningEnum",
    "disable_possible_user_warnings",
    "find_shared_parameters",
    "is_picklable",
    "is_shared_filesystem",
    "measure_flops",
    "move_data_to_device",
    "rank_zero_debug",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "set_shared_parameters",
    "suggested_max_num_workers",
]

FLOAT16_EPSILON = torch.finfo(torch.float16).eps
FLOAT32_EPSILON = torch.finfo(torch.float32).eps
FLOAT64_EPSILON = torch.finfo(torch.float64).eps

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
