"""What is kept: one tidy table of records, declared in `schema`, written by `store`."""
