"""Decides rows in columns, as the live path would: re-scoring, and what backtests stand on."""
