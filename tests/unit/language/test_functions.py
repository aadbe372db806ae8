"""The library, function by function."""

from __future__ import annotations

import math
from typing import Any

import pytest

from engine.language import ExpressionError, UInt
from engine.language.functions import FUNCTIONS
from engine.language.interpret import evaluate_expression

RIGHT: dict[str, Any] = {
    "size('é🐱')": 2, "size(b'é')": 2, "[1, 2].size()": 2, "size({1: 2})": 1,
    "'abc'.startsWith('ab')": True, "'abc'.endsWith('bc')": True, "'abc'.contains('d')": False,
    "'abc'.matches('^b')": False, "matches('abc', 'b')": True, "'é'.matches('^.$')": True,
    "'abc'.charAt(3)": "", "'hello mellow'.indexOf('ello', 2)": 7, "'hello mellow'.lastIndexOf('ello')": 7,
    "'hello mellow'.lastIndexOf('ello', 6)": 1, "'a'.indexOf('b')": -1, "['a', 'b'].join('-')": "a-b", "[].join()": "",
    "'TacoCÆt'.lowerAscii()": "tacocÆt", "'é'.upperAscii()": "é", "'aab'.replace('a', 'x', 1)": "xab",
    "'a b c'.split(' ', 2)": ["a", "b c"], "'a b'.split(' ', 0)": [], "'abc'.split('')": ["a", "b", "c"],
    "'abc'.split('', 2)": ["a", "bc"], "'tacocat'.substring(4)": "cat", "'tacocat'.substring(0, 4)": "taco",
    "' \\t x\\u00a0'.trim()": "x", "'abc'.reverse()": "cba", "strings.quote('a\"\\n\\a')": '"a\\"\\n\\a"',
    "lower('ÄB')": "äb", "normalised('  ＡＢ  straße ')": "ab strasse", "domain_of('a@b@Example.ORG')": "example.org",
    "int('-42')": -42, "int(1.9)": 1, "int(-1.9)": -1, "int(5u)": 5, "uint('7')": UInt(7), "uint(2.9)": UInt(2),
    "double('1e3')": 1000.0, "double('-inf')": -math.inf, "bool('T')": True, "bytes('é')": b"\xc3\xa9",
    "string(b'\\xc3\\xa9')": "é", "string(true)": "true", "string(5u)": "5", "string(1.0)": "1", "string(-0.0)": "-0",
    "string(1e300)": "1e+300", "string(123456.789)": "123456.789", "string(0.00001)": "1e-05", "string(0.25)": "0.25",
    "string(double('nan'))": "NaN", "string(1e20)": "100000000000000000000", "string(1.5e21)": "1.5e+21",
    "math.greatest(1, 3, 2)": 3, "math.least([2.5, 1.5])": 1.5, "math.ceil(1.2)": 2.0, "math.floor(-1.2)": -2.0,
    "math.round(-2.5)": -3.0, "math.round(0.49999999999999994)": 0.0, "math.trunc(-1.9)": -1.0, "math.abs(-3)": 3,
    "math.sign(-2.0)": -1.0, "math.sign(0u)": UInt(0), "math.sqrt(9)": 3.0, "math.isNaN(math.sqrt(-1.0))": True,
    "math.isInf(1.0 / 0.0)": True, "math.isFinite(1.0)": True, "math.bitAnd(6, 3)": 2, "math.bitOr(4u, 1u)": UInt(5),
    "math.bitXor(6, 3)": 5, "math.bitNot(0)": -1, "math.bitNot(0u)": UInt(2**64 - 1),
    "math.bitShiftLeft(1, 63)": -(2**63), "math.bitShiftRight(-1, 60)": 15, "math.bitShiftLeft(1u, 64)": UInt(0),
    "base64.encode(b'hello')": "aGVsbG8=",
    "base64.decode('aGVsbG8')": b"hello", "ip('::1').isLoopback()": True, "ip('fe80::1').family()": 6,
    "ip.isCanonical('2001:DB8::1')": False, "ip('8.8.8.8').isGlobalUnicast()": True, "isIP('1.2.3.4.5')": False,
    "isCIDR('10.0.0.0/33')": False, "isCIDR('10.0.0.1/8')": True, "string(cidr('10.0.0.1/8').masked())": "10.0.0.0/8",
    "ip('::').isUnspecified()": True, "ip('ff02::1').isLinkLocalMulticast()": True,
    "ip('224.0.1.1').isLinkLocalMulticast()": False, "ip('169.254.1.1').isLinkLocalUnicast()": True,
    "cidr('10.0.0.0/8').prefixLength()": 8, "string(cidr('10.0.0.1/8').ip())": "10.0.0.1",
    "cidr('10.0.0.0/8').containsIP('11.0.0.1')": False,
    "cidr('10.0.0.0/8').containsIP(ip('::1'))": False, "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')": True,
    "ip_in('10.1.2.3', '10.0.0.0/8')": True, "ip_in('10.1.2.3', ['192.168.0.0/16', '10.1.2.3'])": True,
    "ip_in('::1', ['10.0.0.0/8'])": False, "haversine_km(0, 0, 0, 0)": None,
    "haversine_km(52.52, 13.405, 48.8566, 2.3522) > 877.0": True, "haversine_km(0.0, 0.0, 0.0, 180.0) < 20016.0": True,
    "timestamp('2026-11-27T09:30:00+02:00').getHours()": 7, "timestamp(0).getDayOfWeek()": 4,
    "timestamp('2026-01-31T23:30:00Z').getMonth('Asia/Tokyo')": 1,
    "timestamp('2026-03-01T00:00:00Z').getDayOfYear()": 59,
    "timestamp('2026-03-01T00:00:00Z').getDate('-01:00')": 28, "string(timestamp(1))": "1970-01-01T00:00:01Z",
    "string(timestamp('2026-01-01T00:00:00.120Z'))": "2026-01-01T00:00:00.12Z", "int(timestamp(-1))": -1,
    "string(duration('-1h30m0.5s'))": "-5400.5s", "duration('90m').getHours()": 1, "duration('-90s').getMinutes()": -1,
    "duration('1.5s').getMilliseconds()": 500, "duration('0') == duration('0s')": True,
    "timestamp('2026-03-01T00:00:09Z').getSeconds()": 9, "timestamp(0).getFullYear()": 1970, "dyn(1) == dyn(1.0)": True,
    "timestamp(0).getDayOfMonth('+01:00')": 0, "type(type(1)) == type(string)": True, "type(1u) == uint": True,
    "timestamp(0).getMilliseconds('UTC')": 0, "string(duration('1.5us'))": "0.0000015s",
    "'%d of %s is %.1f%%'.format([1, 'x', 12.34])": "1 of x is 12.3%",
    "'%b %o %x %X'.format([5, 8u, -30, b'k'])": "101 10 -1e 6B",
    "'%e %f %s'.format([1052.5, 2, [1.5, null, {'k': true}]])": "1.052500e+03 2.000000 [1.5, null, {k: true}]",
    "'%s %f'.format([double('inf'), double('nan')])": "Infinity NaN", "'%s'.format([type(1u)])": "uint",
    "'%s %s'.format([timestamp(0), duration('90m')])": "1970-01-01T00:00:00Z 5400s",
    "ip('::ffff:c0a8:1') == ip('192.168.0.1')": True, "dyn(9223372036854775807) < 9223372036854775808.0": False,
    "[5, 7].all(i, v, v > i)": True, "[5, 7].exists(i, v, i == 1 && v == 7)": True,
    "{'a': 1}.existsOne(k, v, v == 1)": True,
    "[5, 7].transformList(i, v, i == 1, v * 2)": [14], "{'a': 2}.transformMap(k, v, k + string(v))": {"a": "a2"},
    "['x'].transformMapEntry(i, v, {v: i})": {"x": 0}, "cel.bind(x, 20, cel.bind(y, 1, x + y))": 21,
    "cel.bind(x, 1 / 0, true || x == 1)": True,
}  # fmt: skip
WRONG = (
    "'%d'.format([1.5])", "'%d %d'.format([1])", "'%a'.format([1])", "'%x'.format([1.5])", "'%b'.format(['x'])",
    "'%.2d'.format([1])", "ip('::ffff:192.168.0.1')", "['a', 'a'].transformMapEntry(i, v, {v: i})",
    "[1].transformMapEntry(i, v, v)", "[1].all(i, v, v)", "cel.bind(x, 1 / 0, x == 1)",
    "haversine_km(91.0, 0.0, 0.0, 0.0)", "'abc'.charAt(4)", "'abc'.substring(2, 1)", "'a'.indexOf('a', 5)",
    "'a'.lastIndexOf('a', -1)", "[1].join()", "int('1.5')", "int('')", "int(1e19)", "int(double('nan'))", "uint(-1)",
    "uint('-1')", "uint(-0.5)", "double('abc')", "double('1e999')", "bool('yes')", "string(b'\\xff')",
    "math.abs(-9223372036854775807 - 1)",
    "math.greatest([])", "math.greatest(['a'])", "math.bitShiftLeft(1, -1)", "base64.decode('!!')", "ip('1.2.3')",
    "ip('::ffff:1.2.3.4')", "ip('fe80::1%eth0')", "cidr('10.0.0.0')", "cidr('10.0.0.0/08')", "ip_in('x', '10.0.0.0/8')",
    "ip.isCanonical('x')", "domain_of('nobody')", "timestamp('2026-02-30T00:00:00Z')", "timestamp('2026-01-01')",
    "timestamp('2026-01-01T00:00:60Z')", "timestamp(999999999999)", "timestamp(0).getHours('Mars')", "duration('1d')",
    "duration('')", "duration('400000h') + duration('2400000h')", "size(5)",
    "'a'.startsWith(1)", "startsWith('a', 'b')",
)  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_results(text: str) -> None:
    """Each function gives the documented value, with its type."""
    if RIGHT[text] is None:
        with pytest.raises(ExpressionError, match="can't take"):  # ints are not doubles in dynamic mode
            evaluate_expression(text)
        return
    got = evaluate_expression(text)
    assert (repr(got), type(got)) == (repr(RIGHT[text]), type(RIGHT[text]))


@pytest.mark.parametrize("text", WRONG)
def test_what_can_not_be_is_an_error(text: str) -> None:
    """Arguments outside what a function can take give ERROR, never a Python exception."""
    with pytest.raises(ExpressionError):
        evaluate_expression(text)


def test_every_function_is_tried() -> None:
    """A new function comes with a case above."""
    cases = " ".join([*RIGHT, *WRONG])
    assert {name for name, _ in FUNCTIONS if f"{name}(" not in cases} == set()
