"""Rules, patterns and lists. `evaluate_expression` is the dynamic entry to the rule language: parsed, not checked."""

from engine.language import ExpressionError, UInt
from engine.language.interpret import evaluate_expression

__all__ = ["ExpressionError", "UInt", "evaluate_expression"]
