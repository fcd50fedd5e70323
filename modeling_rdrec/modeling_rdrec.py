"""RDRecForConditionalGeneration: T5 with soft prompts per task and whole-word embeddings of user and item ids.

    model = RDRecForConditionalGeneration.from_pretrained("runs/sample")
    batch = tokenizer(["user_12 item_3 item_45"], return_tensors="pt")
    model.generate(**batch, task_ids=torch.tensor([1]), num_beams=20)

The encoder reads `[soft prompt of the task] [token embedding + whole-word embedding] ...`; everything else is T5,
reused rather than rewritten. A state dict of the reference implementation loads by name.

With `config.history="decoder"` a recommendation's prompt is empty or names the user, and the decoder reads the items
bought so far, every one of which is a target while training: the next item is what follows.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5ForConditionalGeneration
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from .configuration_rdrec import AUTO_MAP, TASKS, RDRecConfig
from .generation_rdrec import RDRecGenerationMixin
from .head import head_cross_entropy, sampled_cross_entropy
from .history import marks_of
from .item_text import ItemText
from .pipeline_rdrec import CUSTOM_PIPELINES


class SoftPromptEmbedding(nn.Embedding):
    """Soft prompts; a class of its own so that `_init_weights` knows it (paper: uniform in ±0.1)."""


class RDRecForConditionalGeneration(RDRecGenerationMixin, T5ForConditionalGeneration):
    """T5 for the five task ids of RDRec.

    Two tables are added to T5's weights: `prompt_embeddings` `[num_tasks * prompt_length, d_model]`, uniform in ±0.1 at
    the start, and `whole_word_embeddings` `[max_whole_words, d_model]`, whose row 0 belongs to all other tokens (None
    where the configuration does not mark whole words).
    """

    config_class = RDRecConfig

    def __init__(self, config: RDRecConfig):
        super().__init__(config)
        self.prompt_embeddings = SoftPromptEmbedding(config.num_tasks * config.prompt_length, config.d_model)
        self.whole_word_embeddings: nn.Embedding | None = None
        if config.marks_whole_words:
            self.whole_word_embeddings = nn.Embedding(config.max_whole_words, config.d_model)
        self.item_text: ItemText | None = None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        # Whole words fall under the library's rule for embeddings, for T5 a normal distribution of unit variance.
        super()._init_weights(module)
        if isinstance(module, SoftPromptEmbedding):
            init.uniform_(module.weight, -0.1, 0.1)

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; the saved configuration always points to the code that is saved beside the weights."""
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = dict(CUSTOM_PIPELINES)
        return super().save_pretrained(*args, **kwargs)

    def compose_items(self, text: ItemText) -> None:
        """Train with items' vectors made of their own rows and their texts (`item_text.py`).

        The rows that the model has now are taken for whole vectors, so that a saved checkpoint goes on where it was.
        """
        self.item_text = text.to(self.device)
        self.item_text.unfold(self.shared.weight)

    @contextmanager
    def folded(self) -> Iterator[None]:
        """The model as it is saved: items' texts in their rows, a plain T5. Inside, it can rank, write and be saved."""
        if self.item_text is None:
            yield
            return
        text, own = self.item_text, self.shared.weight.detach().clone()
        text.fold(self.shared.weight)
        self.item_text = None
        try:
            yield
        finally:
            self.item_text = text
            with torch.no_grad():
                self.shared.weight.copy_(own)

    def _tokens(self, input_ids, table) -> torch.Tensor:
        """Token embeddings, from `table` `[vocab_size, d_model]` where items are composed."""
        return self.shared(input_ids) if table is None else F.embedding(input_ids, table)

    def _embed(self, input_ids, inputs_embeds, whole_word_ids, task_ids, table=None):
        """Input embeddings of the encoder, `[batch, prompt_length + length, d_model]` (without task ids: no prompt)."""
        embeds = self._tokens(input_ids, table) if inputs_embeds is None else inputs_embeds
        if whole_word_ids is None:
            whole_word_ids = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        embeds = self._marked(embeds, "whole_word_ids", whole_word_ids)
        if task_ids is None:
            return embeds
        self._check_ids("task_ids", task_ids, self.config.num_tasks)
        length = self.config.prompt_length
        rows = task_ids.view(-1, 1) * length + torch.arange(length, device=task_ids.device)
        return torch.cat([self.prompt_embeddings(rows).to(embeds.dtype), embeds], dim=1)

    def _marked(self, embeds, name, whole_word_ids):
        """Embeddings with the marks of their whole words."""
        if self.whole_word_embeddings is None:
            return embeds
        self._check_ids(name, whole_word_ids, self.config.max_whole_words)
        return embeds + self.whole_word_embeddings(whole_word_ids).to(embeds.dtype)

    def _check_ids(self, name, ids, rows):
        """Raise a clear error for ids outside their table, where looking costs no wait for an accelerator."""
        if torch.compiler.is_compiling() or ids.numel() == 0 or (self.training and ids.device.type != "cpu"):
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            mend = (
                "shorten the history or the candidate list"
                if name == "whole_word_ids"
                else "see RDRecConfig.num_tasks and modeling_rdrec.TASKS"
            )
            raise ValueError(f"{name} must lie in 0..{rows - 1}, got {low}..{high}: {mend}")

    def _with_prompt(self, attention_mask, task_ids):
        """Mask of the encoder's states, `[batch, prompt_length + length]`: soft prompts are always attended to."""
        if attention_mask is None or task_ids is None:
            return attention_mask
        prompt = attention_mask.new_ones(attention_mask.shape[0], self.config.prompt_length)
        return torch.cat([prompt, attention_mask], dim=1)

    def _four_dimensional(self, mask):
        """The mask `[batch, 1, 1, length]`, which transformers takes as it is.

        It would look whether one of two dimensions has padding, for which a step has to wait for an accelerator.
        """
        if mask is None or mask.ndim != 2 or not self.training or self.config._attn_implementation == "eager":
            return mask
        return mask[:, None, None, :].bool()

    def encode(
        self,
        input_ids=None,
        attention_mask=None,
        whole_word_ids=None,
        task_ids=None,
        inputs_embeds=None,
        table=None,
        **kwargs,
    ) -> tuple[BaseModelOutput, torch.Tensor | None]:
        """Run the encoder once.

        Returns the encoder's output, `last_hidden_state` `[batch, prompt_length + length, d_model]`, and the mask that
        goes with it, for `forward(encoder_outputs=…, attention_mask=…)` and `generate(…)`. `table`: token embeddings to
        use in place of the model's own.
        """
        embeds = self._embed(input_ids, inputs_embeds, whole_word_ids, task_ids, table)
        mask = self._with_prompt(attention_mask, task_ids)
        return self.encoder(inputs_embeds=embeds, attention_mask=self._four_dimensional(mask), **kwargs), mask

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        whole_word_ids: torch.LongTensor | None = None,
        task_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs=None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        target_places: torch.LongTensor | None = None,
        decoder_whole_word_ids: torch.LongTensor | None = None,
        negatives: torch.LongTensor | None = None,
        num_classes: int | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """One pass over encoder and decoder.

        Parameters
        ----------
        input_ids, attention_mask : LongTensor `[batch, length]`
            Text tokens and 1/0 for token/padding; without a mask every position is a token.
        whole_word_ids : LongTensor `[batch, length]`, optional
            For each token 0, or the number of the user or item it is part of. Absent: all 0.
        task_ids : LongTensor `[batch]`, optional
            Index into `TASKS`. Absent: no soft prompt is put before the text.
        labels : LongTensor `[batch, target_length]`, optional
            Target tokens, -100 where there is none. The loss is the mean over target tokens, or their sum divided by
            `num_items_in_batch` where that is given (gradient accumulation in transformers). Under
            `config.reference_padding` -100 counts as the padding token.
        target_places : LongTensor `[targets]`, optional
            For training: where in `labels`, flattened, the target tokens are (all that is not -100). Only they pass the
            head then, some at a time, and `logits` is None.
        decoder_whole_word_ids : LongTensor `[batch, target_length]`, optional
            Whole-word ids of the decoder's inputs, where it reads items whose ids have several pieces.
        negatives : LongTensor `[negatives]`, optional
            With `target_places`: the loss is that of a softmax over each target and these tokens, `num_classes` being
            the number of tokens that a target may be (see `head.sampled_cross_entropy`).
        encoder_outputs : optional
            What `encode` gave; `attention_mask` may then be the text's or the one `encode` returned.

        Returns
        -------
        Seq2SeqLMOutput
            `loss`, `logits` `[batch, target_length, vocab_size]` and T5's other outputs; `encoder_last_hidden_state`
            includes the soft-prompt positions.

        Raises
        ------
        ValueError
            For whole-word or task ids outside their table (looked at on the CPU and, outside training, on any device).

        A single prompt serves all rows of the decoder.
        """
        return_dict = kwargs.pop("return_dict", None)
        table = None if self.item_text is None else self.item_text.composed(self.shared.weight)
        if encoder_outputs is None:
            passed_on = {k: v for k, v in kwargs.items() if k in ("output_attentions", "output_hidden_states")}
            encoder_outputs, attention_mask = self.encode(
                input_ids, attention_mask, whole_word_ids, task_ids, inputs_embeds, table, **passed_on
            )
        elif attention_mask is not None:
            missing = encoder_outputs[0].shape[1] - attention_mask.shape[1]
            if missing == self.config.prompt_length:
                attention_mask = F.pad(attention_mask, (missing, 0), value=1)

        if self.config.reference_padding:
            attention_mask = None
            if labels is not None:
                labels = labels.masked_fill(labels == -100, self.config.pad_token_id)
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._shift_right(labels)
        if decoder_whole_word_ids is not None or table is not None:
            decoder_inputs_embeds = self._decoder_embeds(decoder_input_ids, decoder_whole_word_ids, table)
            decoder_input_ids = None

        if target_places is not None:
            states = self._states_at(
                target_places, decoder_input_ids, decoder_inputs_embeds, encoder_outputs, attention_mask
            )
            targets = labels.flatten()[target_places]
            loss = self._loss(states, targets, table, negatives, num_classes)
            loss = loss / (len(target_places) if num_items_in_batch is None else num_items_in_batch)
            outputs = Seq2SeqLMOutput(loss=loss, encoder_last_hidden_state=encoder_outputs[0])
        else:
            outputs = super().forward(
                attention_mask=self._four_dimensional(attention_mask),
                decoder_input_ids=decoder_input_ids,
                decoder_attention_mask=decoder_attention_mask,
                encoder_outputs=encoder_outputs,
                past_key_values=past_key_values,
                decoder_inputs_embeds=decoder_inputs_embeds,
                use_cache=use_cache,
                return_dict=True,
                **kwargs,
            )
            if labels is not None:
                reduction = "mean" if num_items_in_batch is None else "sum"
                # In float32, as everywhere in transformers: a sum over the vocabulary is too much for bfloat16.
                logits = outputs.logits.float().view(-1, outputs.logits.shape[-1])
                loss = F.cross_entropy(logits, labels.to(logits.device).view(-1), reduction=reduction)
                outputs.loss = loss if num_items_in_batch is None else loss / num_items_in_batch
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return outputs if return_dict else outputs.to_tuple()

    def _decoder_embeds(self, input_ids, whole_word_ids, table):
        embeds = self._tokens(input_ids, table)
        return embeds if whole_word_ids is None else self._marked(embeds, "decoder_whole_word_ids", whole_word_ids)

    def _states_at(self, places, input_ids, inputs_embeds, encoder_outputs, attention_mask) -> torch.Tensor:
        """The decoder's states at flattened places of its inputs, scaled for the head: `[places, d_model]`."""
        rows, states = len(input_ids if inputs_embeds is None else inputs_embeds), encoder_outputs[0]
        if len(states) == 1 < rows:
            states = states.expand(rows, -1, -1)
            attention_mask = None if attention_mask is None else attention_mask.expand(rows, -1)
        decoded = self.decoder(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=states,
            encoder_attention_mask=self._four_dimensional(attention_mask),
            use_cache=False,
        )
        states = decoded.last_hidden_state.flatten(0, 1)[places]
        return states * (self.model_dim**-0.5) if self.config.scale_decoder_outputs else states

    def _loss(self, states, targets, table, negatives, num_classes) -> torch.Tensor:
        """Sum of the cross-entropy of all targets."""
        if not isinstance(self.lm_head, nn.Linear):  # a head that an adapter wraps
            return F.cross_entropy(self.lm_head(states).float(), targets, reduction="sum")
        if table is None or not self.config.tie_word_embeddings:
            table = self.lm_head.weight
        if negatives is None:
            return head_cross_entropy(states, table, targets)
        return sampled_cross_entropy(states, table, targets, negatives, num_classes)

    @torch.no_grad()
    def generate(self, inputs=None, *args, whole_word_ids=None, task_ids=None, **kwargs):
        """transformers' `generate`, with `whole_word_ids` and `task_ids` as further inputs of the encoder.

        The encoder runs here, once per row and before beams are made, so that every decoding mode of transformers works
        unchanged on its output.
        """
        if kwargs.get("encoder_outputs") is None:
            text = {
                "input_ids": kwargs.pop("input_ids", None) if inputs is None else inputs,
                "inputs_embeds": kwargs.pop("inputs_embeds", None),
                "attention_mask": kwargs.pop("attention_mask", None),
            }
            if text["input_ids"] is None and text["inputs_embeds"] is None:
                raise ValueError(
                    "generate() needs input_ids, inputs_embeds or encoder_outputs: tokenize a prompt first"
                )
            if text["attention_mask"] is None and text["input_ids"] is not None:
                text["attention_mask"] = (text["input_ids"] != self.config.pad_token_id).long()
            wanted = {k: kwargs[k] for k in ("output_attentions", "output_hidden_states") if k in kwargs}
            kwargs["encoder_outputs"], mask = self.encode(
                whole_word_ids=whole_word_ids, task_ids=task_ids, **text, **wanted
            )
            if mask is not None:
                kwargs["attention_mask"] = mask
            inputs = None
        sequential = task_ids is not None and bool((task_ids == TASKS.index("sequential")).all())
        if sequential and self.config.history == "decoder" and not self.config.ids_are_pieces:
            kwargs["mark_items"] = True
        return super().generate(inputs, *args, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, *args, mark_items: bool = False, **kwargs):
        """As in transformers; with `mark_items` the decoder's whole-word ids too, for the tokens of this step."""
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if mark_items:
            width = inputs["decoder_input_ids"].shape[1]
            inputs["decoder_whole_word_ids"] = marks_of(input_ids, self.config)[:, -width:]
        return inputs


RDRecForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["RDRecForConditionalGeneration"]
