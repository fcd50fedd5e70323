"""Cards: the templates `model_card.md`, `dataset_card.md` and `space_card.md`, filled from measured files.

    text = dataset_card("rdrec/beauty-rationales", tables)

Every figure comes from a file of the run or from the tables; where a file is missing, the card says so. Text that comes
from data is escaped (`escape`), so it can end neither a table's cell nor the YAML above.
"""

import fnmatch
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, SpaceCard, SpaceCardData

from dataset_builder.datasets_builder import DOMAINS
from dataset_builder.rationales import RATIONALE_TASKS
from dataset_builder.tables import INFO_FILE, SCHEMAS, Tables, card_configs
from modeling_rdrec.tokenization_rdrec import EVIDENCE_FILE
from rdrec.checkpoints.files import CONVERSION_FILE, RECORD_FILE, RESULTS_FILES, weights_file
from rdrec.checkpoints.records import ConversionRecord, EvaluationResults, TrainingRecord
from rdrec.grounding.report import rate
from rdrec.grounding.score import THRESHOLD
from rdrec.places import HOME

from .contents import base_of, is_hub_name, trained_on
from .hub import PublishError, sha256_of
from .measures import measure


TEMPLATES = {kind: HOME / f"{kind}_card.md" for kind in ("model", "dataset", "space")}
GRADIO = "6.31.0"  # what `space/app.py` was tested with, as requirements-dev.txt has it
LONGEST_TEXT = 200
MISSING = "not measured"
TASK_NAMES = {"sequential": "Sequential recommendation", "topn": "Top-N recommendation", "explanation": "Explanation"}
TASK_CONFIGS = {"sequential": "interactions", "topn": "candidates", "explanation": "rationales"}
SHOWN_METRICS = ("hr@*", "ndcg@*", "mrr", "bleu-*", "rouge-?-f", "fmr", "usr", "support")
# Size classes that the Hub knows for datasets: upper bound of rows, name.
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def one_line(value: Any) -> str:
    """Text from data without line breaks and control characters, and not too long."""
    kept = (" " if char.isspace() else char for char in str(value))
    line = " ".join("".join(char for char in kept if unicodedata.category(char)[0] != "C").split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def escape(value: Any) -> str:
    """Text from data as one line of Markdown that means nothing but itself."""
    return _escaped(one_line(value))


def _escaped(line: str) -> str:
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>()#+!|~&$:@." else char for char in line)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells that hold data are escaped by the caller."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@dataclass(frozen=True)
class Stated:
    """What no file of the run tells of the reviews and only who publishes them knows; the flags of `push_to_hub.py`.

    Attributes
    ----------
    language : sequence of str
        ISO 639 codes.
    license : str, optional
        A licence id of the Hub.
    data_source : str, optional
        One line; a URL in it becomes a link.
    """

    language: Sequence[str] = ()
    license: str | None = None
    data_source: str | None = None

    def languages(self, info: dict[str, Any]) -> list[str] | None:
        """The languages stated, or English where the reviews are known to be: the sample's and the Amazon domains'."""
        known = _synthetic(info) or (info.get("domain") in DOMAINS and self.data_source is None)
        return list(self.language) or (["en"] if known else None)

    def source(self, info: dict[str, Any]) -> str | None:
        """`data_source` as Markdown: URLs are links, the rest means nothing but itself.

        Raises
        ------
        PublishError
            For a source of the sample, whose reviews are generated.
        """
        if self.data_source is None:
            return None
        if _synthetic(info):
            raise PublishError(
                f"--data_source {self.data_source!r}: the sample's reviews are generated and have none: leave it out"
            )
        # re.split gives text and URLs in turn.
        parts = re.split(r"(https?://[^\s<>]*[^\s<>.,;:!?)'\]])", one_line(self.data_source))
        return "".join(f"<{part}>" if place % 2 else _escaped(part) for place, part in enumerate(parts))


def _synthetic(info: dict[str, Any]) -> bool:
    return info.get("source", {}).get("kind") == "sample"


# --- the model's card -------------------------------------------------------------------------------------------------


def model_card(
    repo_id: str,
    folder: Path,
    dataset_id: str | None,
    results_files: Sequence[Path] = (),
    stated: Stated = Stated(),
    pipeline_tag: str = "other",
) -> str:
    """The card of a checkpoint.

    Parameters
    ----------
    repo_id : str
        Where it will be pushed.
    folder : Path
        The checkpoint, with `training_record.json` and `eval_results.json` where there are any.
    dataset_id : str, optional
        The dataset on the Hub.
    results_files : sequence of Path
        Results of other checkpoints to show beside its own, such as those of the other protocol.
    stated : Stated
        What the one who publishes it says of language, licence and source of the reviews.
    pipeline_tag : str
        The model's task on the Hub.

    Raises
    ------
    UserError
        Results in the folder that were measured on other weights, or a file that is not what its name says.
    """
    record = TrainingRecord.find(folder / RECORD_FILE)
    conversion = ConversionRecord.find(folder / CONVERSION_FILE)
    weights, data_info, under = weights_file(folder), trained_on(folder), base_of(folder)
    digest = sha256_of(weights) if weights.is_file() else None
    own = _own_results(folder, digest)
    measured = [] if own is None else [own]
    for path in results_files:
        if not path.is_file():
            raise PublishError(f"--eval_results {path}: no such file")
        measured.append(EvaluationResults.read(path))
    name = repo_id.split("/")[1]
    card = ModelCard.from_template(
        _model_metadata(name, dataset_id, data_info, record, own, stated, pipeline_tag, adapters=under is not None),
        template_path=str(TEMPLATES["model"]),
        repo_id=repo_id,
        dataset_id=dataset_id,
        base=under,
        weights=weights.name,
        title=escape(name),
        summary=_model_summary(data_info),
        results=_results_tables(measured, digest),
        training=_training_lines(record, conversion, data_info),
        weights_sha256=digest,
        can_repeat=record is not None,
        reads_evidence=(folder / EVIDENCE_FILE).is_file(),
        synthetic=_synthetic(data_info),
        license=stated.license,
        data_source=stated.source(data_info),
    )
    return card.content


def _own_results(folder: Path, digest: str | None) -> EvaluationResults | None:
    """What eval.py wrote beside the weights; figures of other weights are refused."""
    path = folder / RESULTS_FILES["test"]
    own = EvaluationResults.find(path)
    if own is not None and own.model_sha256 != digest:
        raise PublishError(
            f"{path}: measured on other weights than {weights_file(folder).name}: run eval.py --model {folder} again"
        )
    return own


def _model_metadata(
    name: str,
    dataset_id: str | None,
    data_info: dict[str, Any],
    record: TrainingRecord | None,
    own: EvaluationResults | None,
    stated: Stated,
    pipeline_tag: str,
    adapters: bool,
) -> ModelCardData:
    """The YAML above the card, from which the Hub makes its tags, links and figures."""
    base = None if record is None else record.recipe.get("model_name_or_path")
    protocol = data_info.get("protocol")
    return ModelCardData(
        language=stated.languages(data_info),
        license=stated.license or "apache-2.0",
        library_name="peft" if adapters else "transformers",
        pipeline_tag=pipeline_tag,
        tags=[
            "rdrec",
            "recommendation",
            "explainable-recommendation",
            "t5",
            *([one_line(protocol)] if protocol else []),
        ],
        datasets=None if dataset_id is None else [dataset_id],
        base_model=base if base and is_hub_name(base) else None,
        model_name=name,
        eval_results=_eval_results(own, dataset_id) or None,
    )


def _model_summary(data_info: dict) -> str:
    if not data_info:
        return "What it was trained on is not recorded."
    return (
        f"Trained on {escape(data_info['domain'])} under the `{_protocol(data_info['protocol'])}` protocol: "
        f"{_counted(data_info['counts'])}."
    )


def _counted(counts: dict) -> str:
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in ("users", "items", "interactions"))


def _protocol(name: str) -> str:
    return name if name in ("clean", "published") else escape(name)


def _shown(metric: str) -> bool:
    # NDCG@1 is HR@1.
    return metric != "ndcg@1" and any(fnmatch.fnmatch(metric, pattern) for pattern in SHOWN_METRICS)


def _figure(task: str, scores: dict, metric: str) -> str:
    value = scores.get(metric)
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:.2f}" if task == "explanation" else f"{value:.4f}"


def _results_tables(measured: list[EvaluationResults], digest: str | None) -> str:
    """A table a task: one column for each file of results, then the points of reference of the first that has some."""
    if not measured:
        return f"Not measured: no `{RESULTS_FILES['test']}` came with this checkpoint."
    blocks = [_results_table(task, measured, digest) for task in TASK_NAMES]
    protocols = {results.protocol for results in measured}
    for absent in [name for name in ("clean", "published") if name not in protocols]:
        blocks.append(f"The `{absent}` protocol: {MISSING}.")
    return "\n\n".join(blocks)


def _results_table(task: str, measured: list[EvaluationResults], digest: str | None) -> str:
    if not any(results.results.get(task) for results in measured):
        return f"**{TASK_NAMES[task]}**: {MISSING}."
    columns = []
    for results in measured:
        label = f"`{_protocol(results.protocol)}`"
        label += ", this model" if results.model_sha256 == digest else ", another checkpoint"
        if results.fit_on != "train":
            label += f", fitted on {escape(results.fit_on)}"
        if results.max_samples:
            label += f", first {results.max_samples:,} queries only"
        columns.append((label, results.results.get(task, {})))
        # The same model asked in another way, such as without its prior.
        variants = results.variants.get(task, {})
        columns += [(f"{label}, {escape(variant)}", scores) for variant, scores in variants.items()]
    first = measured[0]
    points = next((found.reference_points.get(task) for found in measured), None) or {}
    columns += [(f"{escape(point)} ({_protocol(first.protocol)})", scores) for point, scores in points.items()]
    metrics = [metric for metric in dict.fromkeys(key for _, scores in columns for key in scores) if _shown(metric)]
    rows = [[escape(metric), *(_figure(task, scores, metric) for _, scores in columns)] for metric in metrics]
    queries = first.queries.get(task)
    what = f"{escape(first.split)} split" + (f", {queries:,} queries" if queries else "")
    return f"**{TASK_NAMES[task]}** ({what})\n\n" + table(["", *(label for label, _ in columns)], rows)


def _eval_results(own: EvaluationResults | None, dataset_id: str | None) -> list[EvalResult]:
    """Metadata that the Hub renders; results of a part of the queries are left to the text."""
    if own is None or own.max_samples:
        return []
    domain = one_line(own.dataset["domain"])
    return [
        EvalResult(
            task_type="recommendation" if task != "explanation" else "text-generation",
            task_name=name,
            dataset_type=dataset_id or domain,
            dataset_name=f"{domain} ({one_line(own.protocol)})",
            dataset_config=TASK_CONFIGS[task],
            dataset_split=one_line(own.split),
            metric_type=metric,
            metric_name=metric.upper(),
            metric_value=value,
        )
        for task, name in TASK_NAMES.items()
        for metric, value in own.results.get(task, {}).items()
        if _shown(metric)
    ]


def _training_lines(record: TrainingRecord | None, conversion: ConversionRecord | None, data_info: dict) -> str:
    lines = []
    if data_info:
        lines.append(f"- dataset fingerprint `{escape(data_info['fingerprint'])}`, seed {int(data_info['seed'])}")
    if conversion is not None:
        lines.append(
            f"- converted from {escape(conversion.source)} of the reference implementation, SHA-256 "
            f"`{escape(conversion.source_sha256)}`"
        )
    if record is None:
        return "\n".join([*lines, f"- its training was not recorded: no `{RECORD_FILE}`"])
    recipe = record.recipe
    start = recipe.get("model_name_or_path")
    start = escape(start) if start else "random weights and a vocabulary trained on the dataset"
    lines += [
        f"- started from {start}; {record.model['parameters']:,} parameters",
        f"- {record.steps:,} steps of {recipe['train_batch_size']} draws, learning rate {recipe['learning_rate']}, "
        f"seed {recipe['seed']}",
        f"- {escape(record.summary())}",
        f"- {record.minutes:.1f} minutes on {record.processes} × {escape(record.device)}, "
        f"{record.tokens_per_second:,.0f} tokens/s, mixed precision {escape(record.mixed_precision)}",
        "- " + ", ".join(f"{escape(name)} `{version}`" for name, version in record.versions.items()),
    ]
    return "\n".join(lines)


# --- the dataset's card -----------------------------------------------------------------------------------------------


def dataset_card(repo_id: str, tables: Tables, audit: Path | None = None, stated: Stated = Stated()) -> str:
    """The card of a built dataset, with figures measured on its tables and on the audit of its rationales, if given.

    `stated` is what the one who publishes it says of language, licence and source of the reviews.

    Raises
    ------
    PublishError
        For an audit that is no `audit.jsonl`, or a source of the sample.
    """
    info, found = tables.info, measure(tables)
    rows = {f"{config}/{split}": part.num_rows for config, split, part in tables.parts() if part.num_rows}
    total = sum(rows.values())
    synthetic = _synthetic(info)
    data = DatasetCardData(
        language=stated.languages(info),
        license=stated.license or ("apache-2.0" if synthetic else "other"),
        tags=["rdrec", "recommendation", "explainable-recommendation", one_line(info["protocol"])],
        pretty_name=one_line(f"{info['domain']}: rationales for recommendation"),
        size_categories=next((name for bound, name in SIZES if total < bound), "10M<n<100M"),
        task_categories=["text-generation"],
        configs=card_configs(tables),
        **({} if synthetic or stated.license else {"license_name": "research-use-of-review-data"}),
    )
    config = "rationales" if "rationales/train" in rows else "interactions"
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES["dataset"]),
        repo_id=repo_id,
        title=escape(info["domain"]),
        protocol=_protocol(info["protocol"]),
        seed=int(info["seed"]),
        counted=_counted(info["counts"]),
        default_config=config,
        tables=table(
            ["config", "split", "rows", "columns"],
            [
                [*(f"`{part}`" for part in name.split("/")), f"{count:,}", ", ".join(SCHEMAS[name.split("/")[0]].names)]
                for name, count in rows.items()
            ],
        ),
        leaks=_leak_lines(info, found),
        teachers=_teacher_lines(found["teachers"]),
        grounding=_grounding_lines(found["grounding"], found["choices"], audit),
        sources=_source_lines(info["source"]),
        skipped="\n".join(
            f"- {escape(reason.replace('_', ' '))}: {count:,}" for reason, count in info["skipped"].items()
        )
        or "- nothing",
        fingerprint=escape(info["fingerprint"]),
        pseudonyms_of=escape(info.get("pseudonyms_of", "")),
        info_file=INFO_FILE,
        synthetic=synthetic,
        license=stated.license,
        data_source=stated.source(info),
        num_negatives=int(info["num_negatives"]),
    )
    return card.content


def _leak_lines(info: dict, found: dict) -> str:
    order = found["id_order"]
    return "\n".join(
        [
            f'- the order of ids alone ("the last id plus one, plus two, …") reaches HR@5 {order["hr@5"]:.4f} and '
            f"NDCG@5 {order['ndcg@5']:.4f} on the test items; drawing five items at random reaches HR@5 "
            f"{order['chance']:.4f}",
            f"- {found['held_out_texts']:,} training texts belong to a validation or test interaction",
        ]
    )


def _teacher_lines(teachers: dict) -> str:
    if not teachers:
        return "No row has a rationale."
    rows = [[escape(teacher), escape(prompt), f"{count:,}"] for (teacher, prompt), count in teachers.most_common()]
    return table(["teacher", "prompt version", "rows"], rows)


def _grounding_lines(scored: dict, choices: dict, audit: Path | None) -> str:
    lines = [
        f"- `{half}`, settled by the audit's policy: "
        + ", ".join(f"{escape(choice.replace('_', ' '))} {count:,}" for choice, count in counts.most_common())
        for half, counts in choices.items()
    ]
    if choices and audit is None:  # selected by the score, which therefore cannot measure them
        lines.append("- an \"own sentence\" is the review's, not the teacher's; how much is ungrounded: " + MISSING)
        return "\n".join(lines)
    if audit is not None:
        counts = {half: [0, 0] for half in RATIONALE_TASKS}
        for half, score, flags in _read_audit(audit):
            if "empty" not in flags:
                counts[half][0] += score < THRESHOLD
                counts[half][1] += 1
        lines += [f"- `{half}`: ungrounded {rate(*count)} of {count[1]:,} halves" for half, count in counts.items()]
        return "Audited with `python -m rdrec.grounding`, 95% intervals:\n\n" + "\n".join(lines)
    for half, (count, share) in scored.items():
        lines.append(f"- `{half}`: {share:.1%} of {count:,} scored rows below the threshold {THRESHOLD}")
    return "\n".join(lines) or f"How well the rationales are grounded in their reviews: {MISSING}."


def _read_audit(path: Path) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Half, score and flags of every half in an `audit.jsonl`."""
    if not path.is_file():
        raise PublishError(f"--audit {path}: no such file: give the audit.jsonl of `python -m rdrec.grounding`")
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
                for half in RATIONALE_TASKS:
                    yield half, float(row[half]["score"]), tuple(row[half]["flags"])
            except (ValueError, KeyError, TypeError) as error:
                raise PublishError(f"--audit {path} line {number}: not a line of an audit.jsonl ({error})") from error


def _source_lines(source: dict) -> str:
    files = source.get("files") or [value for value in source.values() if isinstance(value, dict) and "sha256" in value]
    lines = [f"- kind: {escape(source.get('kind', 'unknown'))}"]
    lines += [f"- {escape(file['file'])}, SHA-256 `{escape(file['sha256'])}`" for file in files]
    lines += [
        f"- {escape(key.replace('_', ' '))}: {escape(value)}"
        for key, value in source.items()
        if key not in ("kind", "files") and not isinstance(value, dict | list) and value is not None
    ]
    return "\n".join(lines)


# --- the Space's card -------------------------------------------------------------------------------------------------


def space_card(repo_id: str, model_id: str, dataset_id: str) -> str:
    """The card of the Space that shows a model; its metadata is the Space's configuration."""
    name = repo_id.split("/")[1]
    data = SpaceCardData(
        title=name,
        emoji="🛒",
        colorFrom="blue",
        colorTo="green",
        sdk="gradio",
        sdk_version=GRADIO,
        python_version="3.11",
        app_file="app.py",
        license="apache-2.0",
        short_description="Recommendations with reasons, evidence and what-ifs",
        models=[model_id],
        datasets=[dataset_id],
        tags=["rdrec", "recommendation", "explainable-recommendation"],
    )
    card = SpaceCard.from_template(
        data,
        template_path=str(TEMPLATES["space"]),
        repo_id=repo_id,
        title=escape(name),
        model_id=model_id,
        dataset_id=dataset_id,
    )
    return card.content
