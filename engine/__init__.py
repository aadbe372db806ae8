"""Arbiter: decides, in milliseconds, what to do with a user or a payment."""
