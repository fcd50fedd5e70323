"""The RDRec model as it travels to a model repo on the Hub: configuration, model, tokenizer, generation.

    from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer

A checkpoint folder holds copies of this package's files, so that
`AutoModel.from_pretrained(folder, trust_remote_code=True)` needs nothing else of this project.
"""

from .configuration_rdrec import TASKS, RDRecConfig
from .modeling_rdrec import RDRecForConditionalGeneration
from .tokenization_rdrec import RDRecTokenizer


__all__ = ["TASKS", "RDRecConfig", "RDRecForConditionalGeneration", "RDRecTokenizer"]
