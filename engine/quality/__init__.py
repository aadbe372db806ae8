"""How clean a file is: one look through it, findings with the way to mend them, expectations, the report."""
