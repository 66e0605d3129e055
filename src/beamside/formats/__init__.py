"""Reading and writing files, and nothing else."""
