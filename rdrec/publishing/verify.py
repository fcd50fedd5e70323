"""After a push: is what lies on the Hub what was meant, for someone who has nothing but its name?

verify(target, files, commit, endpoint, configs)     # raises PublishError where it is not
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from huggingface_hub import get_token

from .contents import Base
from .hub import Files, PublishError, Target, sha256_of


PROBE = Path(__file__).with_name("probe.py")


def stage(files: Files, folder: Path) -> Path:
    """Lay files out as they stand in the repo; large ones are linked, not copied."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            place.symlink_to(content.resolve())
    return folder


def verify(
    target: Target,
    files: Files,
    commit: str,
    endpoint: str,
    configs: dict[str, list[str]] | None = None,
    base: Base | None = None,
) -> str:
    """Download a commit into an empty cache, compare it with what was pushed, load it by name and use it.

    Parameters
    ----------
    target, files : Target, Files
        As pushed, `release.json` included.
    commit : str
        Id of the commit.
    endpoint : str
        The Hub it was pushed to.
    configs : dict of str to list of str, optional
        Of a dataset: config to splits.
    base : Base, optional
        Of adapters: the checkpoint under them.

    Returns
    -------
    str
        One line on what was compared.

    Raises
    ------
    PublishError
        A file, a row or an answer differs, or what was pushed cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="rdrec-verify-") as work:
        local = stage(files, Path(work) / "local" / target.repo_id.split("/")[1])
        # No cache and no setting but these; the token is handed on where no command line shows it.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_HOME": f"{work}/home", "HF_ENDPOINT": endpoint, "HF_TOKEN": get_token() or ""}
        environment |= {key: value for key, value in os.environ.items() if key == "HF_HUB_DISABLE_XET"}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
        asked = {
            "repo_id": target.repo_id,
            "kind": target.kind,
            "revision": commit,
            "local": str(local),
            "configs": configs,
            "base": base,
        }
        done = subprocess.run(
            [sys.executable, "-I", str(PROBE), json.dumps(asked)],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        token = environment["HF_TOKEN"]
        reason = reason.replace(token, "***") if token else reason
        raise PublishError(f"{target} is pushed ({commit[:8]}), but does not load from the Hub: {reason}")
    return _compare(target, files, commit, json.loads(done.stdout.splitlines()[-1]))


def _compare(target: Target, files: Files, commit: str, found: dict) -> str:
    where = f"{target} is pushed ({commit[:8]}), but"
    for path, content in files.items():
        if found["sha256"].get(path) != sha256_of(content):
            raise PublishError(f"{where} {path} came back {'different' if path in found['sha256'] else 'missing'}")
    line = f"{len(files)} files equal"
    if target.kind == "model":
        for task, answer in found["before"].items():
            if found["after"][task] != answer:
                raise PublishError(f"{where} it answers differently ({task}) from the one on this machine")
        line += ", loaded by name, answers equal bit for bit"
    elif target.kind == "dataset":
        for name, table in found["tables"].items():
            if not table["equal"]:
                raise PublishError(f"{where} {name} loads with other rows than were pushed")
        rows = sum(table["rows"] for table in found["tables"].values())
        line += f", loaded by name, {rows:,} rows in {len(found['tables'])} tables equal"
    elif "recommended" in found:
        line += f", its model and dataset loaded, {len(found['recommended'])} items recommended"
    return line
