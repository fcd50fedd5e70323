"""The training loop, on accelerate: steps, validation, early stopping, checkpoints, exact resume, the run's record.

record = train(recipe)      # under `accelerate launch`, in every process
"""

import json
import logging
import shutil
import signal
import time
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import get_scheduler
from transformers.utils import logging as transformers_logging

from rdrec.arguments import write_yaml
from rdrec.checkpoints import run_folder
from rdrec.checkpoints.environment import package_versions, use_all_cores
from rdrec.checkpoints.files import RECIPE_FILE, RECORD_FILE
from rdrec.checkpoints.records import TrainingRecord
from rdrec.durable import put_in_place, replace_folder, write_json
from rdrec.errors import UserError
from rdrec.sample.build import load_tables_of
from rdrec.tasks.collator import Collator
from rdrec.tasks.data import TaskData
from rdrec.tasks.mixture import FAMILIES, Row, TaskMixture, validation_rows
from rdrec.training.start import make_model, parameter_groups

from .cpu import speed_up
from .recipe import FREE_ON_RESUME, Recipe


class Steps(Dataset):
    """Step number to the tensors of this process: one entry per accumulation turn, each with its groups."""

    def __init__(self, mixture: TaskMixture, collator: Collator, accumulation: int, rank: int, world: int):
        self.mixture, self.collator = mixture, collator
        self.parts = [slice(rank * accumulation + turn, None, world * accumulation) for turn in range(accumulation)]

    def __getitem__(self, step: int) -> list[dict]:
        rows = self.mixture.rows(step)
        return [self.collator(rows, part) for part in self.parts]


class Progress:
    """How far a run is; saved with each checkpoint (accelerate asks for `state_dict` and `load_state_dict`)."""

    def __init__(self):
        self.step = 0
        self.bad_validations = 0
        self.best_step = 0
        self.best_loss = float("inf")
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
    output_dir = Path(recipe.output_dir)
    tracker = None if recipe.report_to == "none" else recipe.report_to
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=tracker,
        project_dir=str(output_dir / "logs") if tracker else None,
    )
    use_all_cores(accelerator)
    # Bars and notes about each saved file would tear the run's own progress bar.
    transformers_logging.disable_progress_bar()
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    with accelerator.main_process_first():
        resume_from = None
        if accelerator.is_main_process:
            resume_from = run_folder.prepare_output_dir(
                output_dir, recipe.resume_from_checkpoint, recipe.overwrite_output_dir
            )
        elif recipe.resume_from_checkpoint is not None:
            last = recipe.resume_from_checkpoint == "last"
            resume_from = output_dir / run_folder.LAST if last else Path(recipe.resume_from_checkpoint)
        data = TaskData(load_tables_of(recipe.dataset, recipe.dataset_revision))

    set_seed(recipe.seed)
    model, tokenizer = make_model(recipe, data)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if accelerator.device.type == "cpu":
        speed_up(model)
    if recipe.torch_compile:
        model.compile(dynamic=True)

    mixture = TaskMixture(data, recipe.train_batch_size, recipe.task_ratio, recipe.seed, recipe.max_history)
    parts = accelerator.num_processes * recipe.gradient_accumulation_steps
    if max(mixture.draws.values()) < parts:
        raise UserError(
            f"train_batch_size {recipe.train_batch_size}: too small to share among {parts} processes and accumulation "
            "turns; raise it or lower gradient_accumulation_steps"
        )
    set_seed(recipe.seed, device_specific=True)  # equal weights everywhere, but each process has dropout of its own
    collator = Collator(tokenizer, recipe.max_target_length, recipe.reference_padding)
    total_steps = recipe.max_train_steps or max(1, round(recipe.num_train_epochs * mixture.steps_per_epoch))

    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe), weight_decay=recipe.weight_decay, fused=fused)
    scheduler = get_scheduler(recipe.lr_scheduler_type, optimizer, recipe.num_warmup_steps, total_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    if resume_from is not None:
        _check_resumable(resume_from, recipe, data)
        accelerator.load_state(str(resume_from))
        accelerator.print(f"resuming at step {progress.step} from {resume_from}")

    steps = Steps(
        mixture, collator, recipe.gradient_accumulation_steps, accelerator.process_index, accelerator.num_processes
    )
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(progress.step, total_steps),
        num_workers=recipe.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
        # Its own generator: the default one belongs to dropout, and starting a loader would move it.
        generator=torch.Generator(),
    )
    held_out = validation_rows(data, recipe.seed, recipe.max_history, recipe.max_eval_samples)
    if tracker:
        flat = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in recipe.as_dict().items()}
        accelerator.init_trackers("rdrec", config=flat)

    run = _Run(recipe, accelerator, model, optimizer, scheduler, tokenizer, collator, held_out, progress, data, mixture)
    stop = StopRequest()
    try:
        finished = run.go(loader, total_steps, stop)
    finally:
        stop.restore()
    if not finished:
        accelerator.print(
            f"stopped at step {progress.step}; go on with the same command and --resume_from_checkpoint last"
        )
        accelerator.end_training()
        return None
    record = run.record(total_steps)
    if accelerator.is_main_process:
        write_yaml(recipe.reproducing(), output_dir / RECIPE_FILE)
        record.write(output_dir / RECORD_FILE)
        run_folder.promote_best(output_dir)
    accelerator.end_training()
    return record


def _check_resumable(checkpoint: Path, recipe: Recipe, data) -> None:
    state = json.loads((checkpoint / run_folder.STATE_FILE).read_text(encoding="utf-8"))
    if state["fingerprint"] != data.info["fingerprint"]:
        raise UserError(f"{checkpoint}: trained on another dataset than {recipe.dataset}: give the one it began with")
    for key, value in recipe.as_dict().items():
        if key not in FREE_ON_RESUME and state["recipe"].get(key) != value:
            raise UserError(
                f"{checkpoint}: made with {key} {state['recipe'].get(key)!r}, now {value!r}: a run goes on with the "
                "settings it began with; start another with --output_dir"
            )


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


class _Run:
    """The parts of a run that its steps share."""

    def __init__(
        self, recipe, accelerator, model, optimizer, scheduler, tokenizer, collator, held_out, progress, data, mixture
    ):
        self.recipe, self.accelerator, self.model, self.optimizer = recipe, accelerator, model, optimizer
        self.scheduler, self.tokenizer, self.collator, self.held_out = scheduler, tokenizer, collator, held_out
        self.progress, self.data, self.mixture = progress, data, mixture
        self.output_dir = Path(recipe.output_dir)
        self.tokens_done = 0
        self.data_seconds = self.step_seconds = 0.0

    def go(self, loader: DataLoader, total_steps: int, stop: StopRequest) -> bool:
        """Train to the end, to early stopping or to a signal; True unless a signal ended it."""
        recipe, progress, accelerator = self.recipe, self.progress, self.accelerator
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
        batches = iter(loader)
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
        losses = self.validation_losses()
        if not losses:
            raise UserError("no validation rows for the tasks of task_ratio: give another ratio or dataset")
        loss = sum(losses.values()) / len(losses)
        progress, epoch = self.progress, self.progress.step / self.mixture.steps_per_epoch
        if not torch.isfinite(torch.tensor(loss)):
            raise UserError(
                f"validation loss {loss} at step {progress.step}: lower learning_rate or use no mixed_precision"
            )
        progress.history.append({"step": progress.step, "epoch": epoch, "loss": loss, **losses})
        better = loss < progress.best_loss
        if better:
            progress.best_loss, progress.best_step, progress.bad_validations = loss, progress.step, 0
            if self.accelerator.is_main_process:
                replace_folder(self.output_dir / run_folder.BEST, self._save_model)
        else:
            progress.bad_validations += 1
        parts = ", ".join(f"{family} {value:.4f}" for family, value in losses.items())
        say = bar.write if self.accelerator.is_main_process else (lambda line: None)
        say(f"epoch {epoch:.2f}: validation loss {loss:.4f}{' *' if better else ''} ({parts})")
        self.accelerator.log(
            {"eval/loss": loss, **{f"eval/loss_{family}": v for family, v in losses.items()}}, progress.step
        )

    @torch.no_grad()
    def validation_losses(self) -> dict[str, float]:
        """Mean loss per target token of each family's held-out rows; their mean decides which model is best."""
        accelerator, size = self.accelerator, self.recipe.eval_batch_size
        # Unwrapped, since processes may have different numbers of batches here.
        model = accelerator.unwrap_model(self.model)
        model.eval()
        losses = {}
        for family in FAMILIES:
            rows: list[Row] = [row for row in self.held_out if row.family == family]
            if not rows or not self.mixture.draws[family]:
                continue
            # Apple's GPUs have no float64.
            dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
            total = torch.zeros(2, dtype=dtype, device=accelerator.device)
            starts = range(0, len(rows), size)
            for start in list(starts)[accelerator.process_index :: accelerator.num_processes]:
                batch = self.collator(rows[start : start + size])
                for _, group in batch["groups"]:
                    group = send_to_device(group, accelerator.device, non_blocking=True)
                    loss = model(**group, num_items_in_batch=batch["num_items"]).loss
                    total += torch.stack([loss, torch.ones_like(loss)]).to(dtype) * batch["num_items"]
            total = accelerator.reduce(total)
            losses[family] = float(total[0] / total[1])
        self.model.train()
        return losses

    def _out_of_patience(self) -> bool:
        patience = self.recipe.early_stopping_patience
        return bool(patience) and self.progress.bad_validations >= patience

    def _save_model(self, folder: Path) -> None:
        model = self.accelerator.unwrap_model(self.model)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _save_last(self) -> None:
        """Save the whole state; every process writes its random state, the main one puts the folder in place."""
        work = self.output_dir / f".{run_folder.LAST}.state"
        if self.accelerator.is_main_process:
            shutil.rmtree(work, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(work))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state = {"fingerprint": self.data.info["fingerprint"], "recipe": self.recipe.as_dict()}
            write_json(work / run_folder.STATE_FILE, state)
            put_in_place(work, self.output_dir / run_folder.LAST)
        self.accelerator.wait_for_everyone()

    def record(self, total_steps: int) -> TrainingRecord:
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
            stopped_early=progress.step < total_steps,
            best_step=progress.best_step,
            best_validation_loss=progress.best_loss,
            validation=progress.history,
            minutes=round(progress.seconds / 60, 3),
            tokens_per_second=round(self.tokens_done / max(self.step_seconds, 1e-9), 1),
            share_of_step_time_spent_on_data=round(self.data_seconds / max(self.step_seconds, 1e-9), 4),
            processes=self.accelerator.num_processes,
            device=str(self.accelerator.device.type),
            mixed_precision=self.accelerator.mixed_precision,
            versions=package_versions(),
        )
