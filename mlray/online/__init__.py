"""Now: what each view knows about each key, and its value at an instant."""
