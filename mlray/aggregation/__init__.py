"""What an aggregate is, and what a window is; knows no Ray and no storage."""
