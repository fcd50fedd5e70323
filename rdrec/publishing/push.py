"""Everything one command pushes: gather, check, push, verify.

Push(PushSettings(namespace="rdrec", model="runs/beauty", dataset="data/beauty")).run()
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dataset_builder.tables import Tables
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.tasks.data import TaskData

from . import cards, contents
from .hub import Files, Hub, PublishError, Target, check_repo_id, with_manifest
from .pseudonyms import Pseudonyms
from .settings import PushSettings
from .verify import verify


REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
# What the cards' flags may look like; which codes, licences and tasks there are, the Hub knows and checks.
CARD_FLAGS = {
    "language": (r"[a-z]{2,3}|multilingual", "give ISO 639 codes, such as en or de"),
    "license": (r"[a-z0-9][a-z0-9.+-]*", "give a licence id of the Hub, such as apache-2.0 or cc-by-4.0"),
    "pipeline_tag": (r"[a-z0-9]+(-[a-z0-9]+)*", "give a task of the Hub, such as text-generation or other"),
    "data_source": (
        rf"(?=.*\w).{{1,{cards.LONGEST_TEXT}}}",
        f"write one line of at most {cards.LONGEST_TEXT} characters",
    ),
}


@dataclass
class Part:
    """One repo of a push.

    `configs` (config to splits) is given for a dataset and `base` for adapters; `reads` names what a Space reads and
    must be on the Hub already.
    """

    target: Target
    files: Files
    configs: dict[str, list[str]] | None = None
    base: contents.Base | None = None
    reads: tuple[Target, ...] = ()


class Push:
    """A model, its dataset, metrics and a Space, each to a repo of its own, as the settings ask.

    Raises
    ------
    PublishError
        For settings that ask for nothing, or for what cannot go together.
    """

    def __init__(self, settings: PushSettings):
        self.settings = settings
        if not (settings.model or settings.dataset or settings.metrics or settings.space):
            raise PublishError("nothing to push: give --model, --dataset, --metrics or --space")
        if settings.hub_space_id and not settings.space:
            raise PublishError("--hub_space_id names a Space: add --space to push it")
        for kind in ("model", "dataset") if settings.space else ():
            if not (getattr(settings, kind) or getattr(settings, f"hub_{kind}_id")):
                raise PublishError(
                    f"--space needs a {kind}: give --{kind} FOLDER to push it too, or --hub_{kind}_id of one that "
                    "is on the Hub"
                )
        for flag in ("revision", "tag"):
            value = getattr(settings, flag)
            if value is not None and (not REVISION.fullmatch(value) or ".." in value or value.endswith((".", "/"))):
                raise PublishError(f"--{flag} {value!r}: no name for a branch or tag: use letters, digits, . _ - /")
        if (settings.language or settings.license or settings.data_source) and not (settings.model or settings.dataset):
            raise PublishError(
                "--language, --license and --data_source are for cards of a model or dataset: add --model or --dataset"
            )
        for flag, (form, mend) in CARD_FLAGS.items():
            value = getattr(settings, flag)
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                if not re.fullmatch(form, one):
                    raise PublishError(f"--{flag} {one!r}: {mend}")
        self.stated = cards.Stated(settings.language, settings.license, settings.data_source)
        self.pseudonyms = self._pseudonyms()

    def run(self) -> None:
        """Push every part, the dataset first, then the model, or say what would be sent.

        Raises
        ------
        UserError
            Before anything is sent: for input that cannot be pushed. Later: for a connection that broke, or a
            repo that does not come back as it was sent; parts that are done by then are whole.
        """
        parts = self.parts()
        for part in parts:
            check_repo_id(part.target.repo_id)
        if self.settings.dry_run:
            for part in parts:
                print(_listing(part))
            return
        if self.pseudonyms is not None:  # first, so that nothing is ever published that nobody can trace back
            self.pseudonyms.write()
        hub = Hub()
        for target in (target for part in parts for target in part.reads):
            _check_read(target, hub.names(target))
        states = [hub.inspect(part.target, part.files) for part in parts]
        for part, state in zip(parts, states, strict=True):
            size, count = sum(map(state.size, state.add)), len(state.add)
            changed = state.changed
            if changed:
                print(f"{part.target}: sending {count} of {len(state.files)} files, {_bytes(size)}", flush=True)
            commit = hub.push(state)
            url = f"{hub.api.endpoint}/{'' if part.target.kind == 'model' else part.target.kind + 's/'}"
            print(f"{part.target}: {'commit' if changed else 'nothing changed, still commit'} {commit}", flush=True)
            found = verify(part.target, state.files, commit, hub.api.endpoint, part.configs, part.base)
            print(f"{part.target}: verified: {found}: {url}{part.target.repo_id}", flush=True)

    def _pseudonyms(self) -> Pseudonyms | None:
        settings = self.settings
        if settings.pseudonyms is None:
            return None
        if not (settings.model or settings.dataset):
            raise PublishError("--pseudonyms is for the users of a model or dataset: add --model or --dataset")
        path = Path(settings.pseudonyms)
        for flag in ("model", "dataset"):
            folder = getattr(settings, flag)
            if folder is not None and path.resolve().is_relative_to(Path(folder).resolve()):
                raise PublishError(f"--pseudonyms {path}: lies in --{flag} {folder}, which is pushed: keep it apart")
        return Pseudonyms.of_file(path)

    def parts(self) -> list[Part]:
        """What is to be pushed, read and checked on this machine."""
        settings = self.settings
        parts, dataset_id, tables = [], settings.hub_dataset_id, None
        if dataset_id is not None:
            check_repo_id(dataset_id)
        if settings.dataset is not None:
            folder = Path(settings.dataset)
            tables, files = contents.dataset_files(folder)
            dataset_id = dataset_id or f"{settings.namespace}/{_name(tables.info, '{}-rationales')}"
            audit = None if settings.audit is None else Path(settings.audit)
            check_repo_id(dataset_id)
            shown = tables
            if self.pseudonyms is not None:
                shown, files = self.pseudonyms.of_dataset(tables, files)
            files["README.md"] = cards.dataset_card(dataset_id, shown, audit, self.stated).encode()
            parts.append(Part(self._target(dataset_id, "dataset"), files, _configs(files)))
        if settings.model is not None:
            parts.append(self._model(Path(settings.model), dataset_id, tables))
        if settings.space:
            parts.append(self._space(parts))
        for name in settings.metrics:
            files = contents.metric_files(name, settings.namespace)
            parts.append(Part(self._target(f"{settings.namespace}/{name}", "space"), files))
        return parts

    def _target(self, repo_id: str, kind: str) -> Target:
        settings = self.settings
        return Target(repo_id, kind, settings.private, settings.revision, settings.tag)

    def _model(self, folder: Path, dataset_id: str | None, tables: Tables | None) -> Part:
        settings = self.settings
        files = contents.model_files(folder, dataset_id)
        # Damaged weights, or those of another size than the configuration says, are named here, before they are sent.
        _, tokenizer = load_pretrained(str(folder))
        trained_on = contents.trained_on(folder)
        base = contents.base_of(folder)
        if tables is not None:
            check_same_catalog(tokenizer, TaskData(tables), settings.model, settings.dataset)
            if trained_on and trained_on["fingerprint"] != tables.info["fingerprint"]:
                raise PublishError(
                    f"--model {folder}: trained on another dataset than {settings.dataset} (their fingerprints "
                    "differ): give the one it was trained on"
                )
        info = trained_on or ({} if tables is None else tables.info)
        if settings.hub_model_id is None and not info:
            raise PublishError(f"--model {folder}: its domain is not recorded: name its repo with --hub_model_id")
        repo_id = (
            settings.hub_model_id
            or f"{settings.namespace}/{_name(info, 'rdrec-{}' if base is None else 'rdrec-{}-lora')}"
        )
        check_repo_id(repo_id)
        others = [Path(path) for path in settings.eval_results]
        card = cards.model_card(repo_id, folder, dataset_id, others, self.stated, settings.pipeline_tag)
        files["README.md"] = card.encode()
        if self.pseudonyms is not None:
            files = self.pseudonyms.of_model(files)
        return Part(self._target(repo_id, "model"), files, base=base)

    def _space(self, parts: list[Part]) -> Part:
        """The Space over the model and dataset among `parts`, or over those on the Hub."""
        settings, read, elsewhere = self.settings, [], []
        for kind, repo_id in (("model", settings.hub_model_id), ("dataset", settings.hub_dataset_id)):
            part = next((part for part in parts if part.target.kind == kind), None)
            if part is None:
                check_repo_id(repo_id)
                elsewhere.append(Target(repo_id, kind, revision=settings.tag or settings.revision))
            else:
                _check_read(part.target, set(part.files))
            read.append(elsewhere[-1] if part is None else part.target)
        model, dataset = read
        repo_id = settings.hub_space_id or f"{settings.namespace}/{model.repo_id.split('/')[1]}"
        check_repo_id(repo_id)
        files = contents.space_files(*((one.repo_id, one.tag or one.revision) for one in (model, dataset)))
        files["README.md"] = cards.space_card(repo_id, model.repo_id, dataset.repo_id).encode()
        # The Hub runs what is on a Space's `main`; --revision names what it shows.
        target = Target(repo_id, "space", settings.private, tag=settings.tag)
        return Part(target, files, reads=tuple(elsewhere))


def _check_read(target: Target, files: set[str]) -> None:
    missing = sorted(contents.SPACE_READS[target.kind] - files)
    if missing:
        what = "a whole checkpoint with its catalog, no adapters" if target.kind == "model" else "a built dataset"
        raise PublishError(f"{target}: has no {missing[0]}, which the Space reads: give {what}")


def _name(info: dict, form: str) -> str:
    return form.format(info["domain"]) + ("-published" if info["protocol"] == "published" else "")


def _configs(files: Files) -> dict[str, list[str]]:
    configs: dict[str, list[str]] = {}
    for path in files:
        if path.endswith(".parquet"):
            config, split = path.removesuffix(".parquet").split("/")
            configs.setdefault(config, []).append(split)
    return configs


def _listing(part: Part) -> str:
    sizes = {
        path: len(content) if isinstance(content, bytes) else content.stat().st_size
        for path, content in with_manifest(part.files).items()
    }
    where = "" if part.target.revision == "main" else f" on branch {part.target.revision}"
    lines = [f"{part.target}{where}: {len(sizes)} files, {_bytes(sum(sizes.values()))}"]
    return "\n".join(lines + [f"  {_bytes(size):>10}  {path}" for path, size in sorted(sizes.items())])


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
