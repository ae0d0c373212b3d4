"""What a run leaves: its directory, its reader, the console and the mirror at wandb."""
