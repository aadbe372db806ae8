"""The review desk: decisions at which a person looks."""
