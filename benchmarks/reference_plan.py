"""How the reference implementation computes, written from the facts in the design: what `speed.py` compares with.

    plan = ReferencePlan(model, tokenizer)
    plan.train_step(rows)            # one mixed batch, every row padded to the longest
    plan.rank(prompts)               # the encoder once per beam, beams of up to 50 tokens

- Training: all rows of a step in one batch (80 rows of about 400 tokens for 64 draws), padding counted in the loss and
  attended to by the decoder, logits at every position, eager attention, AdamW as torch has it.
- Inference: each prompt is repeated once per beam before the encoder; beams know no catalogue and end at 50 tokens
  (explanations at 20). Explanations use 21 beams in 3 groups without a diversity penalty, which is 7 plain beams of the
  same prompt three times over.
"""

from collections.abc import Sequence

import torch
from transformers.modeling_outputs import BaseModelOutput

from modeling_rdrec import TASKS, RDRecForConditionalGeneration, RDRecTokenizer
from rdrec.tasks.collator import Collator
from rdrec.tasks.mixture import Row


LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 5e-4, 0.01, 1.0
ITEM_BEAMS, ITEM_TOKENS = 20, 50
TEXT_BEAMS, TEXT_GROUPS, TEXT_TOKENS, LEAST_TEXT_TOKENS = 7, 3, 20, 10


class ReferencePlan:
    """The reference's way to train and to answer, with any RDRec model's weights.

    Parameters
    ----------
    model : RDRecForConditionalGeneration
        It is changed: eager attention, `reference_padding`.
    tokenizer : RDRecTokenizer
    dtype : torch.dtype
        Other than float32: autocast to it.
    """

    def __init__(
        self, model: RDRecForConditionalGeneration, tokenizer: RDRecTokenizer, dtype: torch.dtype = torch.float32
    ):
        model.set_attn_implementation("eager")
        model.config.reference_padding = True
        self.model, self.tokenizer, self.device = model, tokenizer, model.device
        self.autocast = torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32)
        self.collator = Collator(tokenizer, reference_padding=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def train_step(self, rows: Sequence[Row]) -> None:
        self.model.train()
        ((_, batch),) = self.collator(rows)["groups"]
        with self.autocast:
            loss = self.model(**{name: tensor.to(self.device) for name, tensor in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _beams(self, task: str, prompts: Sequence[str], beams: int, copies: int, **limits) -> torch.Tensor:
        """Beam search in which every beam of every copy has been through the encoder."""
        self.model.eval()
        batch = self.tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.device)
        batch["task_ids"] = torch.full((len(prompts),), TASKS.index(task), device=self.device)
        batch = {name: tensor.repeat_interleave(beams * copies, 0) for name, tensor in batch.items()}
        with torch.no_grad(), self.autocast:
            states, mask = self.model.encode(**batch)
            # generate() repeats what it is given once per beam, so of each beam's equal states it gets one.
            return self.model.generate(
                encoder_outputs=BaseModelOutput(states.last_hidden_state[::beams]),
                attention_mask=mask[::beams],
                num_beams=beams,
                early_stopping=True,
                length_penalty=1.0,
                do_sample=False,
                **limits,
            )

    def rank(self, prompts: Sequence[str]) -> torch.Tensor:
        """Top-N: the best 10 of 20 beams, read as item numbers afterwards."""
        return self._beams("topn", prompts, ITEM_BEAMS, 1, num_return_sequences=10, max_length=ITEM_TOKENS)

    def recommend(self, prompts: Sequence[str]) -> torch.Tensor:
        """Sequential: the best 15 of 20 beams."""
        return self._beams("sequential", prompts, ITEM_BEAMS, 1, num_return_sequences=15, max_length=ITEM_TOKENS)

    def explain(self, prompts: Sequence[str]) -> torch.Tensor:
        """Explanations: three groups of seven beams."""
        limits = {"max_length": TEXT_TOKENS + 1, "min_length": LEAST_TEXT_TOKENS}
        return self._beams("explanation", prompts, TEXT_BEAMS, TEXT_GROUPS, **limits)
