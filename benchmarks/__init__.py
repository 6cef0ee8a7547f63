"""Benchmarks of the offline engine beside DuckDB and Polars; see README.md."""
