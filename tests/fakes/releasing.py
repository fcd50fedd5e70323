"""What tests of pushing share: `push_to_hub.py` with flags, and a script in a process that has nothing of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

from rdrec.arguments import parse_arguments
from rdrec.publishing.push import Push
from rdrec.publishing.settings import PushSettings


def asked(*flags) -> Push:
    """The push that `push_to_hub.py --namespace rdrec FLAGS` is asked for."""
    return Push(parse_arguments(PushSettings, "", ["--namespace", "rdrec", *map(str, flags)]))


def ask_stranger(script: str, *given, folder: Path, python: str = sys.executable, **settings: str) -> dict:
    """The JSON on the last line of `tests/fakes/SCRIPT`, run in `folder`, an empty cache and no repository."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-I", str(Path(__file__).with_name(script)), *map(str, given)],
        cwd=folder,
        env=environment | {"HF_HOME": str(folder / "home")} | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
