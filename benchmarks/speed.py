"""Our training step and our answers against the reference's execution plan, and against what the machine could do.

    python -m benchmarks.speed --sequences ../shared/data/beauty --tokenizer ../shared/t5_tokenizer
    python -m benchmarks.speed … --models t5-small --tasks training --plans reference ours --repeats 2

Each plan runs in a process of its own (what is freed in one must not help the other), all with the same random weights
and the same rows, one call at a time and in turn: reference, ours, reference, ours, … A ratio is that of neighbouring
calls; medians are printed with the least and the greatest. Rows are Beauty's (`beauty_rows.py`), dropout is T5's 0.1.
`ours` is float32 where `reference` is; `ours-bf16` is autocast, `ours-compiled` torch.compile (training only). On a GPU
(`--device cuda`) both plans are autocast to bfloat16.

Weights are random, so the reference's beams never write `</s>` and run to 50 tokens; those of a trained model end
sooner. Ours do not depend on it. On two CPU cores T5-small's reference takes minutes a call, and more than 20 GB for a
training step: with `--apart` a process ends after each timed call, so that no other plan's memory stands beside it.

The floor of a training step is the floating-point operations of its useful tokens (no padding; attention over a row's
own length; three times the forward pass) over the machine's matrix rate, the best of torch's two libraries.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.beauty_rows import beauty_data
from benchmarks.reference_plan import LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY, ReferencePlan
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer
from modeling_rdrec.fast_linear import linear
from modeling_rdrec.prompts import BARE, fill
from rdrec.arguments import run
from rdrec.tasks.collator import Collator
from rdrec.tasks.mixture import Row, TaskMixture
from rdrec.training.cpu import speed_up
from rdrec.training.loop import Window, optimizer_step


MODELS = {
    "small": {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4},
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
}
VOCAB_SIZE = 32128
BATCH_SIZE = 64
PLANS = ("reference", "ours", "ours-bf16", "ours-compiled")
TASKS = ("training", "topn", "sequential", "explanation")
# Queries in one call: of the reference as many as its repeated prompts allow in memory and patience.
QUERIES = {
    "small": {"reference": {"topn": 8, "sequential": 16, "explanation": 16}, "ours": 64},
    "t5-small": {"reference": {"topn": 2, "sequential": 4, "explanation": 8}, "ours": 32},
}
# What the profiler's operators are to a reader.
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise", "linear"),
    "optimizer": ("_fused_adamw_", "_foreach"),
    "dropout masks": ("random_", "ge", "bernoulli_"),
    "softmax and exponentials": ("softmax", "log_softmax", "logsumexp", "exp"),
    "attention": ("_scaled_dot_product",),
    "copies and clearing": ("copy_", "fill_", "zero_", "cat", "clone", "contiguous"),
    "sums and products of elements": ("mul", "add", "sub", "div", "pow", "sum", "addc", "clamp", "abs", "rsqrt"),
}


class OurPlan:
    """The same weights as `train.py` and `eval.py` use them."""

    def __init__(self, model, tokenizer, dtype: torch.dtype, compiled: bool):
        AcceleratorState._reset_state(reset_partial_state=True)
        device = model.device
        self.accelerator = Accelerator(
            mixed_precision="no" if dtype == torch.float32 else "bf16", cpu=device.type == "cpu"
        )
        self.autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self.tokenizer, self.collator = tokenizer, Collator(tokenizer)
        if device.type == "cpu":
            speed_up(model)
        if compiled:
            model.compile(dynamic=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def train_step(self, rows: list[Row]) -> None:
        self.model.train()
        batch = self.collator(rows)
        optimizer_step(self.accelerator, self.model, self.optimizer, [batch], MAX_GRAD_NORM, Window())

    def answer(self, task: str, queries: list[tuple[int, list[int]]]) -> None:
        model = self.accelerator.unwrap_model(self.model).eval()
        users, items = [user for user, _ in queries], [items for _, items in queries]
        with self.autocast:
            if task == "topn":
                model.rank(self.tokenizer, user=users, candidates=items, internal_ids=True)
            elif task == "sequential":
                model.recommend(self.tokenizer, user=users, history=items, k=10, internal_ids=True)
            else:
                model.explain(self.tokenizer, user=users, item=[one for (one,) in items], internal_ids=True)


def make_plan(name: str, model_name: str, tokenizer: RDRecTokenizer, device: str):
    torch.manual_seed(0)
    model = RDRecForConditionalGeneration(RDRecConfig(vocab_size=VOCAB_SIZE, **MODELS[model_name])).to(device)
    if name == "reference":
        return ReferencePlan(model, tokenizer, torch.bfloat16 if device == "cuda" else torch.float32)
    narrow = device == "cuda" or name == "ours-bf16"
    return OurPlan(model, tokenizer, torch.bfloat16 if narrow else torch.float32, name == "ours-compiled")


def make_queries(data, task: str, count: int) -> list[tuple[int, list[int]]]:
    """Test queries of the first users with two items or more before the target: user and its items."""
    positives, negatives = data.candidates["test"]
    queries = []
    for user in range(1, count + 1):
        sequence = data.sequences[user - 1]
        items = {
            "topn": [*negatives[user - 1], positives[user - 1]],
            "sequential": sequence[:-1][-20:],
            "explanation": [sequence[-1]],
        }[task]
        queries.append((user, [int(item) for item in items]))
    return queries


def serve(connection, name: str, model_name: str, arguments: argparse.Namespace) -> None:
    """A plan's process: runs one call for each request and sends seconds and how many answers they were for."""
    torch.set_num_threads(arguments.threads)
    data = beauty_data(arguments.sequences)
    tokenizer = RDRecTokenizer.from_pretrained(arguments.tokenizer)
    tokenizer.set_catalog(**data.raw_ids)
    mixture = TaskMixture(data, BATCH_SIZE)
    plan = make_plan(name, model_name, tokenizer, arguments.device)

    def call(task: str, number: int) -> int:
        if task == "training":
            plan.train_step(mixture.rows(number))
            return 1
        if name == "reference":
            count = QUERIES[model_name]["reference"][task]
            prompts = [fill(BARE[task], user, items) for user, items in make_queries(data, task, count)]
            {"topn": plan.rank, "sequential": plan.recommend, "explanation": plan.explain}[task](prompts)
        else:
            count = QUERIES[model_name]["ours"]
            plan.answer(task, make_queries(data, task, count))
        return count

    while request := connection.recv():
        kind, task, number = request
        if kind == "flops":
            with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
                count = call(task, number)
            connection.send(counter.get_total_flops() / count)
        elif kind == "profile":
            connection.send(profile(partial(call, task, number)))
        else:
            begun = time.perf_counter()
            count = call(task, number)
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            connection.send((time.perf_counter() - begun) / count)


def flop_formulas() -> dict:
    def product(states, weight, *rest, out_shape=None, **named) -> int:
        return 2 * torch.Size(states).numel() * weight[0]

    return {torch.ops.mkldnn._linear_pointwise: product} if torch.backends.mkldnn.is_available() else {}


def profile(work) -> dict[str, float]:
    """Share of time by kind of operator, in percent."""
    cuda = torch.cuda.is_available()
    with torch.profiler.profile() as profiler:
        work()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::").removeprefix("mkldnn::").lstrip("_")
        kind = next(
            (k for k, names in KINDS.items() if any(name == n.lstrip("_") for n in names)),
            None,
        ) or next((k for k, names in KINDS.items() if any(name.startswith(n.lstrip("_")) for n in names)), "other")
        times[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: 100 * spent / total for kind, spent in times.most_common()}


def useful_training_flops(config: dict, lengths: list[tuple[int, int]], prompt_length: int = 3) -> float:
    """Floating-point operations that a step needs: `lengths` holds each row's tokens of prompt and target."""
    d, ff, layers = config["d_model"], config["d_ff"], config["num_layers"]
    inner = config["num_heads"] * config["d_kv"]
    total = 0
    for source, target in lengths:
        source += prompt_length
        encoder = source * (8 * d * inner + 4 * d * ff) + 4 * inner * source**2
        cross = source * 4 * d * inner + target * 4 * d * inner + 4 * inner * source * target
        decoder = target * (8 * d * inner + 4 * d * ff) + 4 * inner * target**2
        total += layers * (encoder + cross + decoder) + target * 2 * d * VOCAB_SIZE
    return 3.0 * total


def matrix_rate(dtype: torch.dtype, device: str) -> float:
    """GFLOP/s of a large matrix product, the best of several and of torch's libraries."""
    left, right = (torch.randn(rows, 2048, device=device, dtype=dtype) for rows in (4096, 2048))
    best = float("inf")
    with torch.inference_mode():
        for product in (torch.nn.functional.linear, linear):
            for _ in range(8):
                begun = time.perf_counter()
                product(left, right)
                if device == "cuda":
                    torch.cuda.synchronize()
                best = min(best, time.perf_counter() - begun)
    return 2 * 4096 * 2048 * 2048 / best / 1e9


def spread(values: list[float], digits: int = 3) -> str:
    return f"{statistics.median(values):.{digits}g} ({min(values):.{digits}g} to {max(values):.{digits}g})"


class Plan:
    """A plan in a process of its own."""

    def __init__(self, name: str, model_name: str, arguments: argparse.Namespace):
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, model_name, arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *request):
        try:
            self.connection.send(request)
            while self.process.is_alive():
                if self.connection.poll(1):
                    return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
        raise OSError(
            f"the process of {self.name} ended (code {self.process.exitcode}): see its output above; -9 is often too "
            "little memory: try --apart"
        )

    def stop(self) -> None:
        self.connection.send(None)
        self.process.join()


def measure(model_name: str, arguments: argparse.Namespace) -> dict:
    """Run every plan and task of one model; seconds a step or an answer, GFLOP, and profiles."""
    plans: dict[str, Plan] = {}
    flops: dict[tuple[str, str], float] = {}

    def ask(kind: str, name: str, task: str, number: int):
        if name not in plans:
            plans[name] = Plan(name, model_name, arguments)
        # The first call of a process is not timed, since memory and caches are new to it; so it counts operations.
        if arguments.apart or (name, task) not in flops:
            flops[name, task] = plans[name].ask("flops" if name != "ours-compiled" else "time", task, 0)
        answer = plans[name].ask(kind, task, number)
        if arguments.apart:
            plans.pop(name).stop()
        return answer

    results: dict[str, dict] = {}
    try:
        for task in arguments.tasks:
            names = [name for name in arguments.plans if task == "training" or name != "ours-compiled"]
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for number in range(1, arguments.repeats + 1):
                for name in names:
                    seconds[name].append(ask("time", name, task, number))
            results[task] = {
                name: {"seconds": seconds[name], "gflop": flops[name, task] / 1e9 if name != "ours-compiled" else None}
                for name in names
            }
            if "ours" in names:
                results[task]["ours"]["profile"] = ask("profile", "ours", task, 1)
        for plan in plans.values():
            plan.stop()
    except OSError:
        for plan in plans.values():
            plan.process.terminate()  # or each would print that we are gone
        raise
    return results


def report(model_name: str, results: dict, rates: dict[str, float], useful: float) -> None:
    print(f"\n{model_name}: {MODELS[model_name]}")
    for task, plans in results.items():
        unit = "steps" if task == "training" else "answers"
        for name, result in plans.items():
            seconds = result["seconds"]
            line = f"  {task:<12} {name:<14} {spread([1 / s for s in seconds])} {unit}/s"
            if name != "reference" and "reference" in plans:
                ratios = [a / b for a, b in zip(plans["reference"]["seconds"], seconds)]
                line += f", {spread(ratios)} times the reference"
            if result["gflop"] is not None:
                rate = rates["bfloat16" if "bf16" in name else "float32"]
                line += f"; {result['gflop']:.3g} GFLOP, "
                line += f"{result['gflop'] / statistics.median(seconds) / rate:.0%} of the matrix rate"
            print(line)
        if task == "training":
            for name, rate in rates.items():
                print(f"  floor of a step in {name}: {useful / 1e9:.4g} GFLOP / {rate:.4g} GFLOP/s = ", end="")
                print(f"{useful / 1e9 / rate:.3g} s")
        if "profile" in plans.get("ours", {}):
            shares = plans["ours"]["profile"].items()
            print("  where ours spends it: " + ", ".join(f"{kind} {share:.0f}%" for kind, share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=Path, required=True, help="folder with sequential.txt.gz of Beauty")
    parser.add_argument("--tokenizer", required=True, help="T5's tokenizer: folder or Hub id")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=["reference", "ours", "ours-bf16"])
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each plan")
    parser.add_argument("--apart", action="store_true", help="never two plans' processes at once, to save memory")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the plan that runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="write all figures here, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tokenizer = RDRecTokenizer.from_pretrained(arguments.tokenizer)
    rows = TaskMixture(beauty_data(arguments.sequences), BATCH_SIZE).rows(1)
    lengths = [
        (len(tokenizer(row.prompt)["input_ids"]), min(20, len(tokenizer(row.target)["input_ids"]))) for row in rows
    ]
    kinds = (torch.float32, torch.bfloat16)
    rates = {str(kind).removeprefix("torch."): matrix_rate(kind, arguments.device) for kind in kinds}
    everything = {"matrix_rate_gflops": rates, "torch": torch.__version__, "threads": arguments.threads}
    for model_name in arguments.models:
        useful = useful_training_flops(MODELS[model_name], lengths)
        results = measure(model_name, arguments)
        report(model_name, results, rates, useful)
        everything[model_name] = {"useful_gflop": useful / 1e9, **results}
        if arguments.output:
            arguments.output.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
