"""How each kind of node gets its type, and what is a mistake."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.language import expression as ast
from engine.language.expression import Node, changed
from engine.language.functions import FUNCTIONS, KINDS, Overload
from engine.language.functions_moments import parse_duration, parse_timestamp, zone
from engine.language.functions_places import address, network
from engine.language.functions_texts import regex
from engine.language.operators import arithmetic_type
from engine.language.quantities import TypeName
from engine.language.resolve import Apply, Coalesce, InList, Present, dotted_anywhere, root_of
from engine.language.types import BOOL, DOUBLE, DYN, INT, NULL, ORDERED, STRING, UINT, Type, fits, join, list_of, map_of
from engine.language.typing_mistakes import Mistakes

_READERS: dict[tuple[str, int], Callable[[str], Any]] = {
    ("matches", 1): regex, ("timestamp", 0): parse_timestamp, ("duration", 0): parse_duration, ("ip", 0): address,
    ("cidr", 0): network, ("ip_in", 1): lambda text: network(text) if "/" in text else address(text),
}  # fmt: skip
"""Function and number of an argument → what reads it when it is constant; ValueError for what can't be right."""


@dataclass(slots=True)
class Typer(Mistakes):
    """Types one expression; a node with a mistake becomes dyn, so that one mistake is reported once."""

    names: Mapping[str, Type] = field(default_factory=dict)
    lists: Mapping[str, Type] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    used_lists: set[str] = field(default_factory=set)
    variables: list[tuple[str, Type]] = field(default_factory=list)

    # --- literals

    def literal_as(self, node: Node, wanted: Type) -> Node:
        """A whole-number literal, or a list, choice or coalesce of them, as double where double is wanted."""
        if wanted == DOUBLE and isinstance(node, ast.Literal) and node.type == INT:
            return changed(node, value=float(node.value), type=DOUBLE)
        if wanted.name == "list" and wanted.args and isinstance(node, ast.ListNode):
            items = tuple(self.literal_as(item, wanted.args[0]) for item in node.items)
            return changed(node, items=items, type=wanted) if self.list_type(items) == wanted else node
        if wanted == DOUBLE and isinstance(node, ast.Conditional):
            then, otherwise = self.literal_as(node.then, wanted), self.literal_as(node.otherwise, wanted)
            if then.type == otherwise.type == DOUBLE:
                return changed(node, then=then, otherwise=otherwise, type=DOUBLE)
        return node

    def list_type(self, items: tuple[Node, ...]) -> Type:
        """The type of a list with such items."""
        if not items:
            return list_of(DYN)
        found = items[0].type
        for item in items[1:]:
            found = join(found, item.type)
        return list_of(found)

    def alike(self, left: Node, right: Node) -> tuple[Node, Node]:
        """Two nodes that stand beside each other, with the literals among them taking the other's type."""
        return self.literal_as(left, right.type), self.literal_as(right, left.type)

    # --- nodes

    def typed(self, node: Node) -> Node:
        """The node and all below it with their types."""
        rule: Callable[[Typer, Any], Node] | None = _RULES.get(type(node))
        return node if rule is None else rule(self, node)

    def literal(self, node: ast.Literal) -> Node:
        """A constant; type values are refused."""
        if isinstance(node.value, TypeName):
            return self.mistake(node, "E310", f"`{node.value.name}` is a type, and types are not values here")
        return changed(node, type=Type(KINDS[type(node.value)]))

    def name(self, node: ast.Name) -> Node:
        """A declared input or a macro's variable."""
        if node.local:
            return changed(node, type=next(t for name, t in reversed(self.variables) if name == node.path))
        self.used.add(node.path)
        return changed(node, type=self.names[node.path])

    def present(self, node: Present) -> Node:
        """has() of a declared input."""
        self.used.add(node.path)
        return changed(node, type=BOOL)

    def unknown(self, node: Node) -> Node:
        """A name that is not declared."""
        path = dotted_anywhere(node) or self.source(node)
        hint = self.diagnostics.did_you_mean(path, [*self.names, *(name for name, _ in self.variables)])
        return self.mistake(node, "E301", f"unknown name `{path}`", hint)

    def select(self, node: ast.Select) -> Node:
        """A field of a map."""
        root = root_of(node)
        if root is not None and dotted_anywhere(node) is not None:
            return self.unknown(changed(node, test=False, start=root.start))
        operand = self.typed(node.operand)
        node = changed(node, operand=operand)
        kind = operand.type
        if kind == DYN or kind.name == "map":
            value = kind.args[1] if kind.args else DYN
            return changed(node, type=BOOL if node.test else value)
        message = f"`{self.source(operand)}` is {kind} and has no field `{node.field}`"
        return self.mistake(node, "E309", message, found=str(kind), wanted="a map")

    def index(self, node: ast.Index) -> Node:
        """An item of a list or map."""
        operand, key = self.typed(node.operand), self.typed(node.key)
        kind = operand.type
        node = changed(node, operand=operand, key=key)
        if kind == DYN:
            return node
        if kind.name not in ("list", "map"):
            message = f"`{self.source(operand)}` is {kind}; only lists and maps have items"
            return self.mistake(operand, "E309", message, found=str(kind), wanted="a list or a map")
        wanted = INT if kind.name == "list" else kind.args[0]
        if not fits(key.type, wanted):
            return self.wrong_type(key, wanted, "E304")
        return changed(node, type=kind.args[-1])

    def unary(self, node: ast.Unary) -> Node:
        """`!` of a bool, `-` of an int or double."""
        operand = self.typed(node.operand)
        wanted = (BOOL,) if node.operator == "!" else (INT, DOUBLE)
        if operand.type not in (*wanted, DYN):
            names = " or ".join(map(str, wanted))
            message = f"`{node.operator}` takes {names}, not {operand.type}"
            return self.mistake(operand, "E304", message, found=str(operand.type), wanted=names)
        return changed(node, operand=operand, type=BOOL if node.operator == "!" else operand.type)

    def logic(self, node: ast.Logic) -> Node:
        """`&&` and `||` of bools; every operand is looked at."""
        operands = tuple(self.boolean(operand, node.operator) for operand in node.operands)
        return changed(node, operands=operands, type=BOOL)

    def boolean(self, node: Node, where: str) -> Node:
        """A node that must be a bool."""
        node = self.typed(node)
        if fits(node.type, BOOL):
            return node
        hint = 'compare it with something, such as `!= ""`' if node.type == STRING else "compare it with something"
        message = f"`{where}` joins conditions, but `{self.source(node)}` is {node.type}"
        return self.mistake(node, "E304", message, hint, str(node.type), "bool")

    def conditional(self, node: ast.Conditional) -> Node:
        """`?:` with branches of one type."""
        condition = self.boolean(node.condition, "?:")
        then, otherwise = self.alike(self.typed(node.then), self.typed(node.otherwise))
        node = changed(node, condition=condition, then=then, otherwise=otherwise)
        if not fits(then.type, otherwise.type):
            message = f"the branches have different types: {then.type} and {otherwise.type}"
            return self.mistake(otherwise, "E305", message, found=str(otherwise.type), wanted=str(then.type))
        return changed(node, type=otherwise.type if then.type == DYN else then.type)

    def listing(self, node: ast.ListNode) -> Node:
        """`[…]`; whole numbers beside fractional ones are double."""
        items = tuple(map(self.typed, node.items))
        if any(item.type == DOUBLE for item in items):
            items = tuple(self.literal_as(item, DOUBLE) for item in items)
        return changed(node, items=items, type=self.list_type(items))

    def mapping(self, node: ast.MapNode) -> Node:
        """`{…}`; keys are text, whole numbers or bools."""
        entries = tuple((self.typed(key), self.typed(value)) for key, value in node.entries)
        for key, _ in entries:
            if key.type not in (INT, UINT, STRING, BOOL, DYN):
                found, wanted = str(key.type), "string, int or bool"
                self.mistake(key, "E304", f"{key.type} can't be a key", found=found, wanted=wanted)
        if not entries:
            return changed(node, type=map_of(DYN, DYN))
        keys, values = (self.list_type(tuple(entry[i] for entry in entries)).args[0] for i in (0, 1))
        return changed(node, entries=entries, type=map_of(keys, values))

    def binary(self, node: ast.Binary) -> Node:
        """Arithmetic, comparison, `in`."""
        left, right = self.typed(node.left), self.typed(node.right)
        if node.operator == "in":
            return self.membership(node, left, right)
        left, right = self.alike(left, right)
        node = changed(node, left=left, right=right)
        if node.operator in ("==", "!="):
            return self.equality(node)
        if node.operator in ("<", "<=", ">", ">="):
            return self.ordering(node)
        found = arithmetic_type(node.operator, left.type, right.type)
        return self.misfit(node, "E304") if found is None else changed(node, type=found)

    def equality(self, node: ast.Binary) -> Node:
        """`==` and `!=` of one type; null is no way to ask whether an input is there."""
        left, right = node.left, node.right
        null = next((n for n in (left, right) if isinstance(n, ast.Literal) and n.value is None), None)
        other = right if null is left else left
        if null is not None and other.type not in (NULL, DYN):
            asked = f"`has({self.source(other)})`" if isinstance(other, ast.Name) else "has()"
            hint = f"an absent value is UNKNOWN, never null; ask with {asked}"
            return self.mistake(null, "E305", f"`{self.source(other)}` is {other.type} and never null", hint)
        return changed(node, type=BOOL) if fits(left.type, right.type) else self.misfit(node, "E305")

    def ordering(self, node: ast.Binary) -> Node:
        """`<` and its kin of one ordered type."""
        for side in (node.left, node.right):
            if side.type not in ORDERED | {DYN}:
                message = f"`{self.source(side)}` is {side.type}, which has no order"
                return self.mistake(side, "E304", message, found=str(side.type), wanted="a number, text or time")
        return changed(node, type=BOOL) if fits(node.left.type, node.right.type) else self.misfit(node, "E305")

    def misfit(self, node: ast.Binary, code: str) -> Node:
        """Two operands that don't go together; the caret stands under the constant one, else under both."""
        left, right = node.left, node.right
        types = {left.type, right.type}
        if types == {INT, DOUBLE}:
            whole, fraction = (left, right) if left.type == INT else (right, left)
            if isinstance(fraction, ast.Literal):
                message = f"`{self.source(fraction)}` is fractional, but `{self.source(whole)}` is a whole number (int)"
                hint = f"use a whole number, or convert: double({self.source(whole)})"
                return self.mistake(fraction, "E306", message, hint, "double", "int", node)
            hint = f"convert: double({self.source(whole)})"
        else:
            hint = "write the number with u, such as 5u" if types == {INT, UINT} else ""
        at = next((n for n in (right, left) if isinstance(n, ast.Literal)), node)
        other = left if at is right else right
        message = f"`{node.operator}` can't take {left.type} and {right.type}"
        found, wanted = (str(right.type), str(left.type)) if at is node else (str(at.type), str(other.type))
        return self.mistake(at, code, message, hint, found, wanted, node)

    def membership(self, node: ast.Binary, left: Node, right: Node) -> Node:
        """`in` a list or the keys of a map."""
        kind = right.type
        if kind != DYN and kind.name not in ("list", "map"):
            hint = "a text is searched with contains()" if kind == STRING else ""
            message = f"`in` needs a list or a map, not {kind}"
            return self.mistake(right, "E304", message, hint, str(kind), "a list or a map")
        right = self.literal_as(right, list_of(left.type)) if kind.name == "list" else right
        inner = right.type.args[0] if right.type.args else DYN
        left = self.literal_as(left, inner)
        items = right.items if isinstance(right, ast.ListNode) else ()
        odd = next((i for i in items if not fits(i.type, left.type)), None if fits(left.type, inner) else right)
        if odd is not None:
            found = inner if odd is right else odd.type
            message = f"`{self.source(left)}` is {left.type}, but here it is compared with {found}"
            return self.mistake(odd, "E305", message, found=str(found), wanted=str(left.type))
        return changed(node, left=left, right=right, type=BOOL)

    def macro(self, node: ast.Macro) -> Node:
        """What goes over a list or a map, and `cel.bind`."""
        over = self.typed(node.over)
        kind = over.type
        if node.kind == "bind":
            self.variables.append((node.variables[0], kind))
            body = self.typed(node.body)
            self.variables.pop()
            return changed(node, over=over, body=body, type=body.type)
        if kind != DYN and kind.name not in ("list", "map"):
            message = f"`{node.kind}` goes over a list or a map, but `{self.source(over)}` is {kind}"
            self.mistake(over, "E304", message, found=str(kind), wanted="a list or a map")
        item = kind.args[0] if kind.args else DYN
        index = INT if kind.name == "list" else item
        in_pairs = (index, kind.args[-1] if kind.args else DYN)
        self.variables += zip(node.variables, in_pairs if len(node.variables) > 1 else (item,), strict=True)
        where = self.boolean(node.where, node.kind) if node.where else None
        makes = node.kind == "map" or node.kind.startswith("transform")
        body = self.typed(node.body) if makes else self.boolean(node.body, node.kind)
        del self.variables[-len(node.variables) :]
        result = {
            "map": list_of(body.type), "transformList": list_of(body.type), "filter": list_of(item),
            "transformMap": map_of(index, body.type), "transformMapEntry": body.type,
        }.get(node.kind, BOOL)  # fmt: skip
        return changed(node, over=over, body=body, where=where, type=result)

    # --- calls

    def call(self, node: ast.Call) -> Node:
        """A call that resolved to no function."""
        if node.function == "in_list":
            return self.mistake(node, "E303", 'in_list takes a list\'s name as text and a value: in_list("name", x)')
        if node.function == "coalesce":
            return self.mistake(node, "E303", "coalesce takes at least one value")
        return self.mistake(
            self.at_word(node, node.function), "E302", f"unknown function `{node.function}`", self.call_hint(node)
        )

    def call_hint(self, node: ast.Call) -> str:
        """The same name called the other way, or near names."""
        receiver, space = node.target is not None, dotted_anywhere(node.target) if node.target else None
        other = FUNCTIONS.get((node.function, not receiver))
        if other:
            form = f"x.{other.name}()" if other.receiver else f"{other.name}(x)"
            return f"it is called as {form}"
        near = self.diagnostics.did_you_mean
        spaced = [name for name, _ in FUNCTIONS if space and name.startswith(f"{space}.")]
        names = [name for name, on in FUNCTIONS if on == receiver] + ([] if receiver else ["in_list", "coalesce"])
        return (near(f"{space}.{node.function}", spaced) if spaced else "") or near(node.function, names)

    def apply(self, node: Apply) -> Node:
        """A function that takes these types."""
        args = tuple(map(self.typed, node.args))
        node = changed(node, args=args)
        if node.function.name in ("type",):
            return self.mistake(node, "E310", "type() gives a type, and types are not values here")
        forms = [form for form in node.function.overloads if self.takes(form, args)]
        if not forms:
            given = ", ".join(str(arg.type) for arg in args[node.function.receiver :])
            wanted = node.function.wants()
            message = f"{node.function.name}() can't take ({given})"
            if node.function.receiver:
                message += f" on {args[0].type}"
            at = self.at_word(node, node.function.name.rpartition(".")[2])
            return self.mistake(at, "E303", message, found=f"({given})", wanted=wanted)
        args = tuple(map(self.literal_as, args, forms[0].params))
        self.constants(node)
        result = forms[0].result
        for form in forms[1:] if any(arg.type == DYN for arg in args) else ():
            result = join(result, form.result)
        return changed(node, args=args, type=result)

    def takes(self, form: Overload, args: tuple[Node, ...]) -> bool:
        """Whether a form fits the arguments, whole-number literals counting as double."""
        return len(form.params) == len(args) and all(
            fits(self.literal_as(arg, param).type, param) for arg, param in zip(args, form.params, strict=True)
        )

    def constants(self, node: Apply) -> None:
        """Constant arguments that can only ever fail, such as a broken regular expression."""
        for i, arg in enumerate(node.args):
            test = zone if i == 1 and node.function.name.startswith("get") else _READERS.get((node.function.name, i))
            for part in arg.items if isinstance(arg, ast.ListNode) else (arg,):
                if test and isinstance(part, ast.Literal) and isinstance(part.value, str):
                    self.constant(part, test)

    def constant(self, node: ast.Literal, test: Callable[[str], Any]) -> None:
        """One constant argument, which the function's own reader must accept."""
        try:
            test(node.value)
        except ValueError as error:
            self.mistake(node, "E311", str(error))

    def in_list(self, node: InList) -> Node:
        """`in_list("name", value)` of a declared list."""
        value = self.typed(node.value)
        if node.list_name not in self.lists:
            hint = self.diagnostics.did_you_mean(node.list_name, self.lists)
            return self.mistake(self.at_word(node, node.list_name), "E308", f"unknown list `{node.list_name}`", hint)
        self.used_lists.add(node.list_name)
        wanted = self.lists[node.list_name]
        value = self.literal_as(value, wanted)
        if not fits(value.type, wanted):
            self.wrong_type(value, wanted, "E303")
        return changed(node, value=value, type=BOOL)

    def coalesce(self, node: Coalesce) -> Node:
        """`coalesce(…)` of one type."""
        args = tuple(map(self.typed, node.args))
        if any(arg.type == DOUBLE for arg in args):
            args = tuple(self.literal_as(arg, DOUBLE) for arg in args)
        found = args[0].type
        for arg in args[1:]:
            if not fits(arg.type, found):
                return self.wrong_type(arg, found, "E303")
            found = arg.type if found == DYN else found
        return changed(node, args=args, type=found)


_RULES: dict[type[Node], Callable[[Typer, Any], Node]] = {
    ast.Literal: Typer.literal, ast.Name: Typer.name, Present: Typer.present, ast.Ident: Typer.unknown,
    ast.Select: Typer.select, ast.Index: Typer.index, ast.Unary: Typer.unary, ast.Logic: Typer.logic,
    ast.Conditional: Typer.conditional, ast.ListNode: Typer.listing, ast.MapNode: Typer.mapping,
    ast.Binary: Typer.binary, ast.Macro: Typer.macro, ast.Call: Typer.call,
    Apply: Typer.apply, InList: Typer.in_list, Coalesce: Typer.coalesce,
}  # fmt: skip
