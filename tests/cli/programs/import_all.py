"""Import names by every path that Lightning's users know, and tell which fail.

Reads ``{path: [names]}`` as JSON, paths relative to the package, from the standard input.
"""

import importlib
import json
import sys

import raylight
from raylight.utilities import aliases

aliases.install()
golden = json.load(sys.stdin)
failures = []
for path, names in golden.items():
    modules = []
    for root in ("raylight", "pytorch_lightning", "lightning.pytorch"):
        try:
            modules.append(importlib.import_module(f"{root}.{path}".rstrip(".")))
        except ImportError as error:
            failures.append(f"{root}.{path}: {error}")
    for name in names:
        try:
            found = [getattr(module, name) for module in modules]
        except AttributeError as error:
            failures.append(str(error))
            continue
        if any(each is not found[0] for each in found):
            failures.append(f"{path}.{name} is not the same everywhere")

import lightning  # noqa: E402
import lightning_fabric  # noqa: E402
import pytorch_lightning  # noqa: E402

json.dump(
    {
        "failures": failures,
        "same": pytorch_lightning.LightningModule is lightning.LightningModule is raylight.LightningModule,
        "by_attribute": pytorch_lightning.utilities.types.STEP_OUTPUT is raylight.utilities.types.STEP_OUTPUT,
        "versions": [pytorch_lightning.__version__, lightning.__version__, lightning_fabric.__version__],
        "fabric": lightning.fabric.utilities.seed.seed_everything is raylight.seed_everything,
    },
    sys.stdout,
)
