"""`finetune launch`: a run on many nodes as a job file, for the system that runs it."""
