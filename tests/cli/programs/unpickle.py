"""Unpickle in a process where nobody has taken Lightning's place."""

import pickle
from pathlib import Path

function = pickle.loads(Path("function.pickle").read_bytes())
fabric = pickle.loads(Path("modules.pickle").read_bytes())
print(function(), fabric.seed_everything.__module__)
