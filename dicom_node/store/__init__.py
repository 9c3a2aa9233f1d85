"""The state: tables, files, and what moves them."""
