"""One writer of events: many small calls become few commits, each answered when its rows can be read."""
