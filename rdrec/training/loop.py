"""The training loop, on accelerate: steps, validation, early stopping, checkpoints, exact resume, the run's record.

record = train(recipe)      # under `accelerate launch`, in every process
"""

import json
import logging
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device, set_seed
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import get_scheduler
from transformers.utils import logging as transformers_logging

from rdrec.arguments import write_yaml
from rdrec.checkpoints import run_folder
from rdrec.checkpoints.environment import package_versions, use_all_cores
from rdrec.checkpoints.files import RECIPE_FILE, RECORD_FILE
from rdrec.checkpoints.loading import load_pretrained
from rdrec.checkpoints.records import TrainingRecord, read_json
from rdrec.durable import is_full, put_in_place, replace_folder, write_json
from rdrec.errors import UserError
from rdrec.memory import give_back_freed_memory
from rdrec.sample.build import load_tables_of
from rdrec.tasks.collator import Collator
from rdrec.tasks.data import TaskData
from rdrec.tasks.mixture import TaskMixture, validation_rows

from .cpu import speed_up
from .evidence import choose_evidence_weight
from .prior import choose_prior, count
from .recipe import FREE_ON_RESUME, Recipe
from .start import make_model, parameter_groups
from .validation import ranking, some_users, text_losses


# Ways to cut a model into parts, under which no process holds the tables that are folded, ranked with and saved.
CUTS_THE_MODEL = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}
# Of two models whose NDCG@10 differs by no more than this share, which is less than another seed does, the one with the
# lower loss of texts is better.
AS_GOOD = 0.99


class Steps(Dataset):
    """Step number to the tensors of this process: one entry per accumulation turn, each with its groups."""

    def __init__(self, mixture: TaskMixture, collator: Collator, accumulation: int, rank: int, world: int):
        self.mixture, self.collator = mixture, collator
        self.parts = [slice(rank * accumulation + turn, None, world * accumulation) for turn in range(accumulation)]

    def __getitem__(self, step: int) -> list[dict]:
        rows, negatives = self.mixture.rows(step), self.mixture.negatives(step)
        return [self.collator(rows, part, negatives) for part in self.parts]


class Progress:
    """How far a run is; saved with each checkpoint, as JSON."""

    def __init__(self):
        self.step = 0
        self.bad_validations = 0
        self.best_step = 0
        self.best: float | None = None  # of the metric that chooses the model
        self.best_loss: float | None = None  # of that model
        self.seconds = 0.0
        self.history: list[dict] = []

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a wish that the loop meets at the end of a step, after saving."""

    def __init__(self):
        self.signal: int | None = None
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number, frame):
        if self.signal is not None:  # the second time, at once
            raise KeyboardInterrupt
        self.signal = number

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def train(recipe: Recipe) -> TrainingRecord | None:
    """Train as the recipe says and leave the best model in `recipe.output_dir`.

    Returns
    -------
    TrainingRecord or None
        As written to `training_record.json`; None where the run was stopped by a signal (its state is saved).

    Raises
    ------
    UserError
        For settings, data or checkpoints that do not fit together; the message names the mend.
    """
    run = Run(recipe)
    stop = StopRequest()
    try:
        finished = run.go(stop)
    finally:
        stop.restore()
    if not finished:
        run.accelerator.print(
            f"stopped at step {run.progress.step}; go on with the same command and --resume_from_checkpoint last"
        )
        run.accelerator.end_training()
        return None
    run.choose()
    record = run.record()
    if run.accelerator.is_main_process:
        write_yaml(recipe.reproducing(), run.output_dir / RECIPE_FILE)
        record.write(run.output_dir / RECORD_FILE)
        run_folder.promote_best(run.output_dir)
    run.accelerator.end_training()
    return record


def _resumable_state(checkpoint: Path, recipe: Recipe, data) -> dict:
    state = read_json(checkpoint / run_folder.STATE_FILE)
    if missing := {"fingerprint", "recipe", "scheduler", "progress"} - state.keys():
        raise UserError(f"{checkpoint}: saved by another version ({min(missing)} is missing): start anew")
    if state["fingerprint"] != data.info["fingerprint"]:
        raise UserError(f"{checkpoint}: trained on another dataset than {recipe.dataset}: give the one it began with")
    for key, value in recipe.as_dict().items():
        if key not in FREE_ON_RESUME and state["recipe"].get(key) != value:
            raise UserError(
                f"{checkpoint}: made with {key} {state['recipe'].get(key)!r}, now {value!r}: a run goes on with the "
                "settings it began with; start another with --output_dir"
            )
    return state


def _save_model(model, tokenizer, folder: Path) -> None:
    with model.folded():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Window:
    """Sums between two log entries; losses stay on the device until they are shown, so no step waits for it."""

    def __init__(self):
        self.began = time.perf_counter()
        self.losses: dict[str, torch.Tensor] = {}
        self.targets: dict[str, int] = defaultdict(int)
        self.tokens = 0

    def count(self, family: str, group: dict) -> None:
        """Count useful tokens, on the CPU, before the tensors leave it."""
        targets = int((group["labels"] != -100).sum())
        self.targets[family] += group["labels"].numel() if family == "mixed" else targets
        self.tokens += int(group["attention_mask"].sum()) + targets


def optimizer_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    turns: list[dict],
    max_grad_norm: float,
    window: Window,
) -> None:
    """One optimizer step: the batches' losses add up to the mean over the step's target tokens.

    Parameters
    ----------
    accelerator, model, optimizer
        Model and optimizer as `accelerator.prepare` gave them.
    turns : list of dict
        What `Collator` gives for each accumulation turn of this process.
    max_grad_norm : float
        0: gradients are not clipped.
    window : Window
        Takes the losses, which stay on the device: nothing here waits for it.
    """
    parts = [(family, group, turn["num_items"]) for turn in turns for family, group in turn["groups"]]
    for place, (family, group, num_items) in enumerate(parts):
        window.count(family, group)
        group = send_to_device(group, accelerator.device, non_blocking=True)
        last = place == len(parts) - 1
        # Gradients are exchanged once a step, with the last batch; the exchange averages, hence the factor.
        with nullcontext() if last else accelerator.no_sync(model):
            loss = model(**group, num_items_in_batch=num_items).loss
            accelerator.backward(loss * accelerator.num_processes)
        window.losses[family] = window.losses.get(family, 0) + loss.detach() * num_items
    if max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Run:
    """A training run: what it is made of, its steps, its validations and its files."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.output_dir = recipe, Path(recipe.output_dir)
        self.accelerator = self._accelerator()
        resume_from = self._prepare_folder()
        with self.accelerator.main_process_first():
            self.data = TaskData(load_tables_of(recipe.dataset, recipe.dataset_revision))
        set_seed(recipe.seed)
        model, self.tokenizer = make_model(recipe, self.data)
        self.config = model.config
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        if self.accelerator.device.type == "cpu":
            speed_up(model)
        if recipe.torch_compile:
            model.compile(dynamic=True)
        self.mixture = self._mixture()
        # Equal weights everywhere, but each process has dropout of its own.
        set_seed(recipe.seed, device_specific=True)
        self.collator = Collator(self.tokenizer, recipe.max_target_length, recipe.reference_padding, model.config)
        self.total_steps = recipe.max_train_steps or max(
            1, round(recipe.num_train_epochs * self.mixture.steps_per_epoch)
        )
        fused = self.accelerator.device.type in ("cpu", "cuda")
        optimizer = torch.optim.AdamW(
            parameter_groups(model, recipe),
            weight_decay=recipe.weight_decay,
            betas=(0.9, recipe.adam_beta2),
            fused=fused,
        )
        self.scheduler = get_scheduler(recipe.lr_scheduler_type, optimizer, recipe.num_warmup_steps, self.total_steps)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progress = Progress()
        if resume_from is not None:
            state = _resumable_state(resume_from, recipe, self.data)
            self.accelerator.load_state(str(resume_from))
            # Not registered with accelerate, which would unpickle them.
            self.scheduler.load_state_dict(state["scheduler"])
            self.progress.load_state_dict(state["progress"])
            self.accelerator.print(f"resuming at step {self.progress.step} from {resume_from}")
        self._set_validation()
        self.prior: dict | None = None
        self.explanation: dict | None = None
        self.tokens_done = 0
        self.data_seconds = self.step_seconds = 0.0

    def _accelerator(self) -> Accelerator:
        recipe = self.recipe
        tracker = None if recipe.report_to == "none" else recipe.report_to
        accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            log_with=tracker,
            project_dir=str(self.output_dir / "logs") if tracker else None,
        )
        if accelerator.distributed_type in CUTS_THE_MODEL:
            raise UserError(
                f"{accelerator.distributed_type.value}: cuts the model into parts, which train.py does not do: launch "
                "it with recipes/accelerate/multi_gpu_bf16.yaml, where each process holds all of it"
            )
        use_all_cores(accelerator)
        # Bars and notes about each saved file would tear the run's own progress bar.
        transformers_logging.disable_progress_bar()
        logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
        return accelerator

    def _prepare_folder(self) -> Path | None:
        """The checkpoint to go on from, if any; the main process clears the folder."""
        recipe, resume_from = self.recipe, None
        with self.accelerator.main_process_first():
            if self.accelerator.is_main_process:
                resume_from = run_folder.prepare_output_dir(
                    self.output_dir,
                    recipe.resume_from_checkpoint,
                    recipe.overwrite_output_dir,
                    recipe.model_name_or_path,
                )
            elif recipe.resume_from_checkpoint is not None:
                last = recipe.resume_from_checkpoint == "last"
                resume_from = self.output_dir / run_folder.LAST if last else Path(recipe.resume_from_checkpoint)
        return resume_from

    def _mixture(self) -> TaskMixture:
        recipe = self.recipe
        mixture = TaskMixture(
            self.data,
            recipe.train_batch_size,
            recipe.task_ratio,
            recipe.seed,
            self.config.max_history,
            self.config.history,
            recipe.user_dropout,
            recipe.fit_on,
            recipe.softmax_negatives,
            self._evidence(),
        )
        parts = self.accelerator.num_processes * recipe.gradient_accumulation_steps
        if max(mixture.draws.values()) < parts:
            raise UserError(
                f"train_batch_size {recipe.train_batch_size}: too small to share among {parts} processes and "
                "accumulation turns; raise it or lower gradient_accumulation_steps"
            )
        return mixture

    def _evidence(self):
        """The tokenizer, where prompts for texts hold the evidence that it carries."""
        return self.tokenizer if self.config.reads_evidence else None

    def _set_validation(self) -> None:
        """What a validation looks at, and by what the best model is chosen."""
        recipe, data = self.recipe, self.data
        # What was fitted cannot validate.
        self.validates = recipe.fit_on == "train"
        recommends = bool(self.mixture.draws["sequential"])
        by_ranking = recipe.metric_for_best_model or ("ndcg@10" if self.config.history == "decoder" else "loss")
        self.by_ranking = by_ranking == "ndcg@10" and recommends
        rows = validation_rows(
            data, recipe.seed, self.config.max_history, recipe.max_eval_samples, self.config.history, self._evidence()
        )
        self.held_out = [row for row in rows if self.mixture.draws[row.family]]
        self.users = some_users(data, recipe.seed, recipe.max_eval_samples)
        if self.validates and not self.held_out and not self.by_ranking:
            raise UserError("no validation rows for the tasks of task_ratio: give another ratio or dataset")

    def _loader(self) -> DataLoader:
        recipe, accelerator = self.recipe, self.accelerator
        steps = Steps(
            self.mixture,
            self.collator,
            recipe.gradient_accumulation_steps,
            accelerator.process_index,
            accelerator.num_processes,
        )
        return DataLoader(
            steps,
            batch_size=None,
            sampler=range(self.progress.step, self.total_steps),
            num_workers=recipe.dataloader_num_workers,
            pin_memory=accelerator.device.type == "cuda",
            # Its own generator: the default one belongs to dropout, and starting a loader would move it.
            generator=torch.Generator(),
        )

    def go(self, stop: StopRequest) -> bool:
        """Train to the end, to early stopping or to a signal; True unless a signal ended it."""
        recipe, progress, accelerator, total_steps = self.recipe, self.progress, self.accelerator, self.total_steps
        if accelerator.log_with:
            flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in recipe.as_dict().items()}
            accelerator.init_trackers("rdrec", config=flat)
        per_epoch = self.mixture.steps_per_epoch
        bar = tqdm(
            total=total_steps,
            initial=progress.step,
            desc="train",
            disable=not accelerator.is_main_process,
            unit="step",
            mininterval=1.0,
        )
        window, patience_left = Window(), not self._out_of_patience()
        began = before = time.perf_counter()
        spent = progress.seconds
        batches = iter(self._loader())
        self.model.train()
        stopped = False
        while progress.step < total_steps and patience_left and not stopped:
            turns = next(batches)
            fetched = time.perf_counter()
            self._step(turns, window)
            progress.step += 1
            now = time.perf_counter()
            self.data_seconds += fetched - before
            self.step_seconds += now - before
            before = now

            bar.update()
            last = progress.step == total_steps
            if progress.step % recipe.logging_steps == 0 or last:
                self._log(window, bar)
                window = Window()
            if progress.step % (recipe.eval_steps or per_epoch) == 0 or last:
                self._validate(bar)
                give_back_freed_memory()  # what validation needed is of other sizes than what steps need
                patience_left = not self._out_of_patience()
                before = time.perf_counter()
            stopped = self._agree_to_stop(stop)
            progress.seconds = spent + time.perf_counter() - began
            if progress.step % per_epoch == 0 or last or (recipe.save_steps and progress.step % recipe.save_steps == 0):
                self._save_last()
                before = time.perf_counter()
        bar.close()
        if stopped:
            self._save_last()
        return not stopped

    def _agree_to_stop(self, stop: StopRequest) -> bool:
        """Whether to end because of a signal; several processes ask one another only when they log, to stay in step."""
        if self.accelerator.num_processes == 1:
            return stop.signal is not None
        if self.progress.step % self.recipe.logging_steps:
            return False
        wishes = torch.tensor(int(stop.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes))

    def _step(self, turns: list[dict], window: Window) -> None:
        optimizer_step(self.accelerator, self.model, self.optimizer, turns, self.recipe.max_grad_norm, window)
        self.scheduler.step()

    def _log(self, window: Window, bar: tqdm) -> None:
        seconds = time.perf_counter() - window.began
        # Every process computes an equal share of a step.
        tokens = window.tokens * self.accelerator.num_processes
        self.tokens_done += tokens
        losses = {family: float(total) / window.targets[family] for family, total in window.losses.items()}
        share = self.data_seconds / max(self.step_seconds, 1e-9)
        shown = {family: f"{loss:.3f}" for family, loss in losses.items()}
        bar.set_postfix({**shown, "tok/s": f"{tokens / seconds:,.0f}", "data": f"{share:.1%}"}, refresh=False)
        values = {f"train/loss_{family}": loss for family, loss in losses.items()}
        values |= {"train/tokens_per_second": tokens / seconds, "train/data_share": share}
        self.accelerator.log(values | {"train/learning_rate": self.scheduler.get_last_lr()[0]}, self.progress.step)

    def _validate(self, bar: tqdm) -> None:
        """Measure the model and keep it if it is the best so far (beyond the training split: if it is the last)."""
        progress, epoch = self.progress, self.progress.step / self.mixture.steps_per_epoch
        say = bar.write if self.accelerator.is_main_process else (lambda line: None)
        if not self.validates:
            if progress.step == self.total_steps:
                progress.best_step = progress.step
                self._save_best()
            return
        found = self.validation()
        loss = found.get("loss")
        weights = self.accelerator.unwrap_model(self.model).shared.weight
        if not (loss is None or np.isfinite(loss)) or not bool(torch.isfinite(weights).all()):
            raise UserError(
                f"the training diverged before step {progress.step} (validation loss {loss}): lower learning_rate or "
                "use no mixed_precision"
            )
        minutes = round(progress.seconds / 60, 3)
        progress.history.append({"step": progress.step, "epoch": epoch, "minutes": minutes, **found})
        value = found["ndcg@10"] if self.by_ranking else -loss
        better = progress.best is None or value > progress.best
        if self.by_ranking and loss is not None and not better:
            # Ranks nearly as well as the best, and writes better than the one that is kept.
            better = value >= AS_GOOD * max(one["ndcg@10"] for one in progress.history) and loss < progress.best_loss
        if better:
            progress.best, progress.best_loss, progress.best_step = value, loss, progress.step
            progress.bad_validations = 0
            self._save_best()
        else:
            progress.bad_validations += 1
        parts = ", ".join(f"{name} {figure:.4f}" for name, figure in found.items())
        say(f"epoch {epoch:.2f}: validation {parts}{' *' if better else ''}")
        self.accelerator.log({f"eval/{name}": figure for name, figure in found.items()}, progress.step)

    def validation(self) -> dict[str, float]:
        """`hr@10` and `ndcg@10` of the next item, the mean `loss` of the text tasks and that of each."""
        # Unwrapped, since processes may have different numbers of batches here.
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        found: dict[str, float] = {}
        with model.folded():
            if self.by_ranking:
                found |= ranking(model, self.tokenizer, self.data, self.users, self.accelerator)
            losses = text_losses(model, self.collator, self.held_out, self.accelerator, self.recipe.eval_batch_size)
        if losses:
            found |= {"loss": sum(losses.values()) / len(losses), **losses}
        self.model.train()
        return found

    @contextmanager
    def _saving(self) -> Iterator[Path]:
        """Save in the `with`: a full disk is named, with what stands. Given is a folder to fill; an error clears it."""
        work = self.output_dir / f".{run_folder.LAST}.state"
        try:
            yield work
        except Exception as error:  # torch, safetensors and tokenizers have one each for a full disk
            full = is_full(error, self.output_dir)
            shutil.rmtree(work, ignore_errors=True)
            if not full:
                raise
            last = self.output_dir / run_folder.LAST / run_folder.STATE_FILE
            step = read_json(last)["progress"]["step"] if last.is_file() else None
            mend = (
                "nothing was saved yet: free some space and begin again"
                if step is None
                else f"the state of step {step} is whole: free some space, then go on with the same command and "
                "--resume_from_checkpoint last"
            )
            raise UserError(f"{self.output_dir}: the disk is full at step {self.progress.step}; {mend}") from error

    def _save_best(self) -> None:
        if self.accelerator.is_main_process:
            model = self.accelerator.unwrap_model(self.model)
            with self._saving():
                replace_folder(self.output_dir / run_folder.BEST, partial(_save_model, model, self.tokenizer))

    def choose(self) -> None:
        """Choose on validation, for the best model: the prior's weight, and what an explanation's support counts."""
        best = self.output_dir / run_folder.BEST
        if not self.accelerator.is_main_process or self.recipe.lora_rank is not None or not best.is_dir():
            return  # (a finished run was resumed and became no better: its model has been through this)
        model, tokenizer = load_pretrained(str(best))
        model.to(self.accelerator.device).eval()
        before = model.config.to_dict()
        self._choose_prior(model, tokenizer)
        self._choose_evidence_weight(model, tokenizer)
        if model.config.to_dict() != before:
            replace_folder(best, partial(_save_model, model, tokenizer))
        for name in ("prior_weight", "prior_offset", "evidence_weight"):
            setattr(self.config, name, getattr(model.config, name))

    def _choose_prior(self, model, tokenizer) -> None:
        """Count transitions beside the model and choose their weight."""
        recipe, config = self.recipe, model.config
        if not config.ids_are_pieces or recipe.prior_weight == 0:
            return
        if recipe.prior_weight is None and not self.validates:  # nothing is left to choose a weight by
            return
        count(tokenizer, self.data, recipe.fit_on)
        if recipe.prior_weight is None:
            self.prior = choose_prior(model, tokenizer, self.data, self.users)
        else:
            self.prior, config.prior_weight, config.prior_offset = {}, recipe.prior_weight, recipe.prior_offset
        if config.prior_weight:
            self.prior = {"weight": config.prior_weight, "offset": config.prior_offset, **self.prior}
        else:
            tokenizer.transitions = None

    def _choose_evidence_weight(self, model, tokenizer) -> None:
        recipe = self.recipe
        if not model.config.reads_evidence:
            return
        if recipe.evidence_weight is not None:
            model.config.evidence_weight = recipe.evidence_weight
        elif self.validates and self.mixture.draws["explanation"]:
            self.explanation = choose_evidence_weight(
                model, tokenizer, self.data.texts["validation"], recipe.seed, recipe.max_eval_samples
            )

    def _out_of_patience(self) -> bool:
        patience = self.recipe.early_stopping_patience
        return bool(patience) and self.progress.bad_validations >= patience

    def _save_last(self) -> None:
        """Save the whole state; every process writes its random state, the main one puts the folder in place."""
        with self._saving() as work:
            if self.accelerator.is_main_process:
                shutil.rmtree(work, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(work))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                state = {
                    "fingerprint": self.data.info["fingerprint"],
                    "recipe": self.recipe.as_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "progress": self.progress.state_dict(),
                }
                write_json(work / run_folder.STATE_FILE, state)
                put_in_place(work, self.output_dir / run_folder.LAST)
            self.accelerator.wait_for_everyone()

    def record(self) -> TrainingRecord:
        """Everything needed to run this again and to see whether it came out the same."""
        progress, info = self.progress, self.data.info
        model = self.accelerator.unwrap_model(self.model)
        return TrainingRecord(
            recipe=self.recipe.reproducing(),
            dataset={key: info[key] for key in ("domain", "protocol", "seed", "source", "counts", "fingerprint")},
            model={"parameters": model.num_parameters(), "config": json.loads(model.config.to_json_string())},
            steps=progress.step,
            steps_per_epoch=self.mixture.steps_per_epoch,
            draws_per_step=self.mixture.draws,
            stopped_early=progress.step < self.total_steps,
            best_step=progress.best_step,
            best_validation_loss=progress.best_loss,
            fit_on=model.config.fit_on,
            metric_for_best_model="ndcg@10" if self.by_ranking else "loss",
            best_metric=progress.best,
            prior=self.prior,
            explanation=self.explanation,
            validation=progress.history,
            minutes=round(progress.seconds / 60, 3),
            tokens_per_second=round(self.tokens_done / max(self.step_seconds, 1e-9), 1),
            share_of_step_time_spent_on_data=round(self.data_seconds / max(self.step_seconds, 1e-9), 4),
            processes=self.accelerator.num_processes,
            device=str(self.accelerator.device.type),
            mixed_precision=self.accelerator.mixed_precision,
            versions=package_versions(),
        )
