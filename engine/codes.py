"""Public code lists: ISO 3166-1 countries, ISO 4217 currencies with their minor-unit exponents, chargeback reasons."""

from __future__ import annotations

COUNTRIES: frozenset[str] = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO
    FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE
    JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO
    MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW
    PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM
    TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
    """.split()
)
"""ISO 3166-1 alpha-2, with the user-assigned XK that card schemes use."""

_TWO_DIGITS = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP
    CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES
    KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK
    NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB
    TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_NO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
CURRENCIES: dict[str, int] = {
    **dict.fromkeys(_TWO_DIGITS.split(), 2),
    **dict.fromkeys(_NO_DIGITS.split(), 0),
    **dict.fromkeys(_THREE_DIGITS.split(), 3),
}
"""ISO 4217 code → digits after the point of its minor unit."""

_FRAUD = """
    10.1 10.2 10.3 10.4 10.5 4837 4840 4849 4863 4870 4871 F10 F14 F24 F29 F30 F31 FR2 FR4 FR6 UA01 UA02 UA05 UA06 UA11
"""
_NO_FRAUD = """
    11.1 11.2 11.3 12.1 12.2 12.3 12.4 12.5 12.6 12.6.1 12.6.2 12.7 13.1 13.2 13.3 13.4 13.5 13.6 13.7 13.8 13.9
    4807 4808 4812 4831 4834 4841 4842 4846 4850 4853 4854 4855 4859 4860
    A01 A02 A08 C02 C04 C05 C08 C14 C18 C28 C31 C32 M10 M49 P01 P03 P04 P05 P07 P08 P22 P23
    AA AP AT AW CD CR DA DP EX IC IN LP NA NC PM RG RM RN1 RN2 TF
"""
CHARGEBACKS: dict[str, str] = {
    **dict.fromkeys(_FRAUD.split(), "chargeback"),
    **dict.fromkeys(_NO_FRAUD.split(), "service_dispute"),
}
"""Reason code of a chargeback (Visa, Mastercard, American Express, Discover) → the outcome that it is: fraud, or a
dispute about goods, authorisation or processing. No scheme has a code for friendly fraud; that is said as such."""
