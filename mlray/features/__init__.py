"""What the user declares, and the one evaluation of it that history and serving share."""
