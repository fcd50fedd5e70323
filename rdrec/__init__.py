"""Everything of the project but the model (`modeling_rdrec`) and the dataset builder (`dataset_builder`).

errors, durable, arguments, places   the ground floor: one error for the user, files whole or not at all, flags of the
               scripts, where the files are that are no modules
tasks          a built dataset becomes the tensors of the five tasks
grounding      whether a rationale or an explanation is supported by its evidence
sample         the embedded sample: a made-up shop whose rule of purchase is known
distillation   a large language model reads each review and writes its rationale
checkpoints    loading and saving models, and the files that a run leaves behind
training       from a recipe to a checkpoint
evaluation     from a checkpoint to figures, beside baselines that learn nothing
recommending   from a checkpoint to recommendations for all users, in one file
publishing     what goes to the Hub, and the check of what arrived there
conversion     checkpoints of the paper's code become ours

A room imports the rooms above it in this list only (`tests/test_structure.py`).
"""
