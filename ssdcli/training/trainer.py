"""transformers' Trainer, with checkpoints that are whole at every moment and a plan that keeps to the clock."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import default_collate
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from ssdcli.data.windows import Windows
from ssdcli.errors import Resumable, SsdError
from ssdcli.machine.distributed import barrier, from_rank_zero, is_rank_zero, summed_over_ranks, world_size
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.machine.threads import choice
from ssdcli.options.checks import seed_word
from ssdcli.training.beginnings import SmallModel
from ssdcli.training.causal_objective import NextTokenObjective
from ssdcli.training.checkpoints import PARTIAL, Best, publish, steps_of, writes_weights
from ssdcli.training.core_states import StateSamples
from ssdcli.training.drafting_objective import DraftingObjective
from ssdcli.training.objective import Objective
from ssdcli.training.optimizer import make_optimizer
from ssdcli.training.plan import Plan
from ssdcli.training.sharding import (
    autocast,
    check_resumable,
    gathered,
    is_sharded,
    learned_weights,
    local,
    set_up,
    whole_backbone,
)
from ssdcli.training.side_objective import SideObjective

TrainingObjective = Objective | SideObjective | NextTokenObjective | DraftingObjective
Samples = Windows | StateSamples

_HISTORY = "history.json"
_SMOOTHED = 20  # steps over which the shown loss is averaged
_POINTS = 20  # points of the loss curve
ENDLESS = 10**7  # steps; the plan decides when to stop


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    step: how many steps are done.
    total: how many are planned; None as long as that is not known.
    loss: the mean over recent steps, in nats per token.
    tokens_per_second: the recent speed.
    seconds_left: until the last planned step; None as long as that is not known.
    """

    step: int
    total: int | None
    loss: float
    tokens_per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class Hooks:
    """What the caller of a training is told, and what it decides.

    on_progress: called after every step.
    wants_stop: asked after every step.
    measure: returns the held-out loss; called now and then.
    checkpoint_every: seconds between checkpoints.
    patience: measurements without progress after which the training ends early; 0 for never.
    apart: steps between two measurements, at least.
    """

    on_progress: Callable[[Progress], None] = lambda _: None
    wants_stop: Callable[[], bool] = lambda: False
    measure: Callable[[], float] | None = None
    checkpoint_every: float = 60.0
    patience: int = 0
    apart: int = 1


@dataclass(frozen=True)
class Rates:
    """Settings of the optimiser, and the size of a step.

    optimizer: its name.
    learning_rate: at its peak.
    weight_decay: of the matrices.
    batch: sequences of a step, over all processes.
    seed: of transformers' own draws.
    """

    optimizer: str
    learning_rate: float
    weight_decay: float
    batch: int
    seed: int


class _Watch(TrainerCallback):
    """Follows the plan: stops in time, saves by the clock, and reports every step."""

    def __init__(self, trainer: SmallTrainer) -> None:
        self._trainer = trainer
        self._saved_at = time.monotonic()
        self._threads = choice(repeatable=trainer.plan.budget.seconds is None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock by which the number of threads is chosen."""
        if self._threads:
            self._threads.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Replan, report, and decide whether to stop or to save."""
        trainer, plan, hooks = self._trainer, self._trainer.plan, self._trainer.hooks
        if self._threads:
            torch.set_num_threads(self._threads.end())
        plan.observe(state.global_step)
        due = time.monotonic() - self._saved_at >= hooks.checkpoint_every
        total, saves = summed_over_ranks([plan.total or 0, due] if is_rank_zero() else [0, 0])  # one clock decides
        plan.total = int(total) or None
        trainer.report(state.global_step)
        (wishes,) = summed_over_ranks([hooks.wants_stop()])
        stop = plan.done(state.global_step) or wishes > 0
        control.should_training_stop = stop
        control.should_save = stop or saves > 0
        if control.should_save:
            self._saved_at = time.monotonic()


class SmallTrainer(Trainer):
    """Trains an Objective by a Plan; a checkpoint holds all that a resumed training needs to end the same."""

    def __init__(self, objective: TrainingObjective, windows: Samples, plan: Plan, rates: Rates, folder: Path) -> None:
        """`folder` is the workspace, in which checkpoint-N folders appear by renames.

        UsageError for FSDP settings that do not work.
        """
        transformers_logging.set_verbosity_error()
        super().__init__(
            model=objective, args=_arguments(rates, folder), train_dataset=windows, data_collator=default_collate
        )
        self.remove_callback(PrinterCallback)
        self.objective: TrainingObjective = objective
        self.plan = plan
        self.rates = rates
        self.hooks = Hooks()
        self.history: list[dict[str, float]] = []
        self.best = Best()
        self.tokens_per_step = rates.batch * windows.length
        self._folder = folder
        self._window = windows
        self._losses: list[float] = []
        set_up(self.accelerator, objective, self.args.per_device_train_batch_size)

    def run(self, hooks: Hooks, checkpoint: Path | None = None) -> bool:
        """Train to the end of the plan, from a checkpoint if one is given; return False if the caller stopped it."""
        self.hooks = hooks
        if checkpoint is not None:
            check_resumable(checkpoint, self.accelerator)
            self.plan.restore(checkpoint)
            self._restore_history(checkpoint)
            self.best.restore(checkpoint)
            if self.plan.done(steps_of(checkpoint)):  # only what follows the training is missing
                self._load_weights(str(checkpoint))
                self.state.global_step = steps_of(checkpoint)
                return True
        self.add_callback(_Watch(self))
        self.plan.start()
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return self.plan.done(self.state.global_step)

    def _load_weights(self, checkpoint: str) -> None:
        if is_sharded(self.accelerator):  # they are sharded first
            self._prepare_for_training(ENDLESS, None, checkpoint)  # type: ignore[no-untyped-call]
        else:
            self._load_from_checkpoint(checkpoint, self.model)

    def whole(self) -> SmallModel:
        """The backbone with the weights to keep, at least in the first process; all processes must call it."""
        assert not isinstance(self.objective, DraftingObjective)
        backbone = whole_backbone(self.objective, self.accelerator)
        self.best.give(backbone)
        return backbone

    @property
    def kept(self) -> int | None:
        """The step whose weights are kept, where that is not the last."""
        return None if self.best.step in (0, self.state.global_step) else self.best.step

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The mean loss per scored token, this process's part of it; SsdError in all if that is not a number.

        The processes' gradients are averaged, so each part is weighted by its share of the tokens.
        """
        loss: Tensor = model(**inputs)
        scored = float(inputs["columns"]["scored"].sum())
        nats, tokens = summed_over_ranks([float(loss.detach()) * scored, scored])
        mean = nats / max(1.0, tokens)
        if not math.isfinite(mean):
            raise _diverged(self.state.global_step + 1, self.rates.learning_rate)
        self._losses = [*self._losses[1 - _SMOOTHED :], mean]
        return loss * (world_size() * scored / max(1.0, tokens))

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[None]:
        """The autocast that accelerate leaves out for a sharded model."""
        return autocast(self.accelerator)

    def report(self, step: int) -> None:
        """Record the loss, measure the held-out loss when it is due, and tell the caller."""
        pace = self.plan.seconds_per_step()
        speed = self.tokens_per_step / pace if pace else 0.0
        left = (self.plan.total - step) * pace if pace and self.plan.total is not None else None
        loss = sum(self._losses) / len(self._losses)
        if self._due(step):
            self.history.append({"step": step, "loss": loss, "seconds": self.plan.elapsed} | self._measured(step))
        self.hooks.on_progress(Progress(step, self.plan.total, loss, speed, left))

    def _due(self, step: int) -> bool:
        """Whether the loss curve gets a point at `step`."""
        total = self.plan.total or 0
        return total > 0 and (step == total or step % max(self.hooks.apart, total // _POINTS) == 0)

    def _measured(self, step: int) -> dict[str, float]:
        """Measure the held-out loss, if there is one; a training that no longer lowers it winds down."""
        if self.hooks.measure is None:
            return {}
        with gathered(self.objective):
            measured = self.hooks.measure()
        heldout = from_rank_zero(lambda: measured)
        if self.hooks.patience:
            self.best.offer(step, heldout, lambda: learned_weights(self.objective, self.accelerator))
            if self.best.worse >= self.hooks.patience and not self.plan.winds_down(step):
                self._wind_down(step)
        return {"heldout": heldout}

    def _wind_down(self, step: int) -> None:
        """Return to the best weights, and let the learning rate fall as it would have after them.

        Had the plan ended its constant phase at the best step b, its total would have been b / (1 - decay), and the
        decay would have taken b * decay / (1 - decay) steps.
        """
        if not is_sharded(self.accelerator):
            self.best.give(self.objective.backbone)
        self.plan.wind_down(step, round(self.best.step * self.plan.decay / (1 - self.plan.decay)))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimiser that suits each kind of parameter."""
        if self.optimizer is None:
            rates = self.rates
            self.optimizer = make_optimizer(self.objective, rates.learning_rate, rates.weight_decay, rates.optimizer)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Schedule the learning rate by the plan."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.create_optimizer(), self.plan.rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore the states; a learning rate that the user changed on resuming wins over the saved one."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.lr_scheduler is not None and self.optimizer is not None:
            self.lr_scheduler.base_lrs = [self.rates.learning_rate] * len(self.lr_scheduler.base_lrs)
            for group in self.optimizer.param_groups:
                group["initial_lr"] = self.rates.learning_rate
                group["lr"] = self.rates.learning_rate * self.plan.rate(steps_of(Path(checkpoint)))

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        """Sample in order: the windows are shuffled already."""
        return torch.utils.data.SequentialSampler(train_dataset or self._window)

    def _get_output_dir(self, trial: Any) -> str:
        """Where Trainer writes a checkpoint before it is whole."""
        return str(self._folder / PARTIAL)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write all weights but frozen ones, which are read again from where they came from."""
        frozen = self._frozen()
        state = self.objective.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value for name, value in state.items() if name not in frozen})

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise SsdError for a checkpoint of another model; only frozen weights may be missing."""
        strange = {*load_result.missing_keys, *load_result.unexpected_keys} - self._frozen()
        if strange:
            problem = f"the checkpoint in {self._folder} is of another model: they differ in {min(strange)}."
            raise SsdError(problem, "Start the training over with --overwrite.")

    def _frozen(self) -> set[str]:
        """The names of the weights that are not trained."""
        return {name for name, weight in self.objective.named_parameters() if not weight.requires_grad}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint that appears only when it is whole: a crash leaves the previous one or this one."""
        finite = all(bool(torch.isfinite(local(parameter)).all()) for parameter in self.objective.parameters())
        if summed_over_ranks([not finite]) != [0]:
            raise _diverged(self.state.global_step, self.rates.learning_rate)
        name = f"checkpoint-{self.state.global_step}"
        partial, final = self._folder / PARTIAL, self._folder / name
        if from_rank_zero(final.exists):
            return
        from_rank_zero(lambda: shutil.rmtree(partial, ignore_errors=True))
        with writes_weights(partial):
            with barrier():
                super()._save_checkpoint(model, trial)
            from_rank_zero(lambda: self._complete(partial / name, final))

    def _complete(self, partial: Path, final: Path) -> None:
        self.plan.save(partial)
        self.best.save(partial)
        (partial / _HISTORY).write_text(json.dumps(self.history), encoding="utf-8")
        publish(partial, final)

    def _restore_history(self, checkpoint: Path) -> None:
        self.history = json.loads((checkpoint / _HISTORY).read_text(encoding="utf-8"))


def _diverged(step: int, rate: float) -> Resumable:
    return Resumable(
        f"the training diverged: at step {step} its loss or its weights are not numbers.",
        f"Continue from its last good checkpoint at a lower rate: --resume --learning-rate {rate / 3:.1g}.",
    )


def _arguments(rates: Rates, folder: Path) -> TrainingArguments:
    """Trainer's own settings: it is silent and reports nowhere; saving and stopping are left to the plan."""
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder / PARTIAL),
        per_device_train_batch_size=rates.batch // world_size(),
        max_steps=ENDLESS,
        use_cpu=not on_gpu,
        bf16=on_gpu or has_fast_bf16(),
        max_grad_norm=1.0,
        seed=seed_word(rates.seed),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=rates.batch == world_size(),  # a single sequence may not be self-conditioned
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # nn.DataParallel cannot split samples
    return arguments
