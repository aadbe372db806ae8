"""Functions on network addresses and on places on the earth."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Any

from engine.language.functions import define, define_all

Address = IPv4Address | IPv6Address
Network = IPv4Interface | IPv6Interface
_EARTH_RADIUS_KM = 6371.0088
"""Mean radius, IUGG."""


@define("ip(string) ip")
@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """An address without zone; one of IPv4 that is written in IPv6 is the IPv4 address, but not with dots."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an ip address") from None
    if not isinstance(found, IPv6Address):
        return found
    if found.scope_id is not None or (found.ipv4_mapped and "." in text):
        raise ValueError(f"{text!r} is not a plain ip address")
    return found.ipv4_mapped or found


@define("cidr(string) cidr")
@lru_cache(maxsize=4096)
def network(text: str) -> Network:
    """A network in prefix form; bits beyond the prefix may be set and are kept."""
    host, slash, prefix = text.partition("/")
    if not (slash and prefix.isascii() and prefix.isdigit()) or (prefix[0] == "0" and prefix != "0"):
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8")
    address(host)
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8") from None


def _readable(read: Callable[[str], Any], text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def _is_link_local_multicast(place: Address) -> bool:
    first = place.packed
    return first[:3] == b"\xe0\x00\x00" if place.version == 4 else first[0] == 0xFF and first[1] & 0x0F == 2


def _is_global_unicast(place: Address) -> bool:
    none = place.is_unspecified or place.is_loopback or place.is_multicast or place.is_link_local
    return not none and str(place) != "255.255.255.255"


def _contains(place: Network, inner: Network) -> bool:
    within = inner.network
    return within.network_address in place.network and within.prefixlen >= place.network.prefixlen


define_all(
    ("isIP(string) bool", lambda text: _readable(address, text)),
    ("isCIDR(string) bool", lambda text: _readable(network, text)),
    ("ip.isCanonical(string) bool", lambda text: str(address(text)) == text),
    ("ip::family() int", lambda place: place.version),
    ("ip::isUnspecified() bool", lambda place: place.is_unspecified),
    ("ip::isLoopback() bool", lambda place: place.is_loopback),
    ("ip::isLinkLocalMulticast() bool", _is_link_local_multicast),
    ("ip::isLinkLocalUnicast() bool", lambda place: place.is_link_local),
    ("ip::isGlobalUnicast() bool", _is_global_unicast),
    ("cidr::ip() ip", lambda place: place.ip),
    ("cidr::masked() cidr", lambda place: ipaddress.ip_interface(str(place.network))),
    ("cidr::prefixLength() int", lambda place: place.network.prefixlen),
    ("cidr::containsIP(ip) bool", lambda place, inner: inner in place.network),
    ("cidr::containsIP(string) bool", lambda place, text: address(text) in place.network),
    ("cidr::containsCIDR(cidr) bool", _contains),
    ("cidr::containsCIDR(string) bool", lambda place, text: _contains(place, network(text))),
)


@define("ip_in(string, string) bool", "ip_in(string, list(string)) bool")
def ip_in(text: str, networks: Any) -> bool:
    """Whether the address lies in the network, or in one of the networks; a single address is a network of its own."""
    place = address(text)
    return any(place in _network_of(item) for item in ([networks] if isinstance(networks, str) else networks))


@lru_cache(maxsize=4096)
def _network_of(text: str) -> Any:
    if "/" in text:
        return network(text).network
    return ipaddress.ip_network(address(text))


@define("haversine_km(double, double, double, double) double")
def haversine_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Great-circle distance in kilometres of two places in degrees."""
    for value, most in ((latitude, 90), (other_latitude, 90), (longitude, 180), (other_longitude, 180)):
        if not -most <= value <= most:
            raise ValueError(f"{value} degrees is outside -{most}..{most}")
    first, second = math.radians(latitude), math.radians(other_latitude)
    across, along = second - first, math.radians(other_longitude - longitude)
    part = math.sin(across / 2) ** 2 + math.cos(first) * math.cos(second) * math.sin(along / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, part)))
