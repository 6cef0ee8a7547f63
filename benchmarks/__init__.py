"""Benchmarks of the offline engine beside DuckDB and Polars, of ingest, and of online reads; see README.md."""
