"""What a script is told that imports what raylight lacks."""

import json
import pickle
import sys

from ray import cloudpickle

from raylight.utilities import aliases

aliases.install()
statements = json.load(sys.stdin)
told = {}
for statement in statements:
    try:
        exec(statement)
    except (ImportError, AttributeError) as error:
        told[statement] = str(error)

import pytorch_lightning as pl  # noqa: E402


def trainer_class():
    return pl.Trainer


with open("function.pickle", "wb") as file:
    file.write(cloudpickle.dumps(trainer_class))
with open("modules.pickle", "wb") as file:
    import lightning.fabric

    pickle.dump(lightning.fabric, file)
json.dump(told, sys.stdout)
