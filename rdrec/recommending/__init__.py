"""From a checkpoint to recommendations for all users, in one file."""
