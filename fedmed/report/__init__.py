"""Tables made from run directories, and from nothing else."""
