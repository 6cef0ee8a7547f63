"""What a run finds out about its data and its model before anybody may register it; one module per gate."""
