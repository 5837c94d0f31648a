"""KTO training from a token cache: a thin plugin on TRL's `KTOTrainer`."""
