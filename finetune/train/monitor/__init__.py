"""What a person sees of a training, and what stays of it."""
