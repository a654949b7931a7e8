"""What is kept of a training, and how a run goes on from it."""
