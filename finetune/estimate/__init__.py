"""How much memory and time a run will need, told from files and arithmetic: no model is loaded."""
