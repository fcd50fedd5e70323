"""What the project survives: hostile files, hostile texts, input that no one meant."""
