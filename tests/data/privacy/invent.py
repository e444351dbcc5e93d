"""Write people.json anew: personal data of nobody, by kind. Needs Faker, which nothing else here does.

uv pip install faker && python -m tests.data.privacy.invent

Faker computes the check digits by code of its own. What it does not make, or not by the rules (a UK NINO with the prefix ZZ,
an Aadhaar with Luhn's check digit in place of Verhoeff's, German tax ids, …), `labelled.py` makes from the published rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from faker import Faker

SEED: Final = 20260131
EACH: Final = 60
LOCALES: Final = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_BR", "sv_SE", "cs_CZ")
ACCOUNTS: Final = ("en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "de_AT", "de_CH", "fi_FI")
NUMBERS: Final = {
    "us_ssn": ("en_US", "ssn"),
    "us_itin": ("en_US", "itin"),
    "fr_nir": ("fr_FR", "ssn"),
    "es_dni": ("es_ES", "nif"),
    "es_dni.nie": ("es_ES", "nie"),
    "it_fiscal_code": ("it_IT", "ssn"),
    "nl_bsn": ("nl_NL", "ssn"),
    "pl_pesel": ("pl_PL", "pesel"),
    "be_national_number": ("nl_BE", "ssn"),
    "ch_ahv": ("de_CH", "ssn"),
    "at_svnr": ("de_AT", "ssn"),
    "se_personnummer": ("sv_SE", "ssn"),
    "fi_hetu": ("fi_FI", "ssn"),
    "no_fnr": ("no_NO", "ssn"),
    "br_cpf": ("pt_BR", "cpf"),
    "ca_sin": ("en_CA", "ssn"),
}


def main() -> None:
    """Invent and write."""
    people: dict[str, list[str]] = {kind: _many(locale, method) for kind, (locale, method) in NUMBERS.items()}
    domains = ("gmail.com", "web.de", "orange.fr", "uni-kiel.de", "mail.kyoto.co.jp", "hey.com", "nhs.net", "acme-labs.io")
    addresses: list[str] = []
    for number, locale in enumerate(LOCALES):
        for address in _many(locale, "free_email")[:12]:
            local = address.split("@")[0]
            addresses += [address, f"{local}@{domains[(number + len(addresses)) % len(domains)]}"]
    people["email"] = [*addresses, "o'hara+lists@tcd.ie", "j_k-l.m@sub.domain.company.com", "MARIE.CURIE@INSTITUT.FR", "x@y.co"]
    people["iban"] = [account for locale in ACCOUNTS for account in _many(locale, "iban")[:12]]
    card = Faker("en_US")
    card.seed_instance(SEED)
    people["card"] = [
        card.credit_card_number(card_type) for card_type in ("visa16", "mastercard", "amex", "discover", "jcb16") for _ in range(16)
    ]
    people["ip4"] = _many("en_US", "ipv4_public")
    people["ip4.private"] = _many("en_US", "ipv4_private")
    people["ip6"] = [
        *_many("en_US", "ipv6")[:30],
        "2a02:8109:b6bf:d4bc::1f",
        "fe80::1c2e:3aff:fe4b:9d01",
        "2a00:1450:4001:82a::200e",
    ]
    people["mac"] = _many("en_US", "mac_address")
    path = Path(__file__).with_name("people.json")
    path.write_text(json.dumps(people, indent=0, ensure_ascii=False) + "\n")


def _many(locale: str, method: str) -> list[str]:
    fake = Faker(locale)
    fake.seed_instance(SEED)
    make: Callable[[], Any] = getattr(fake, method)
    return [str(make()) for _ in range(EACH)]


if __name__ == "__main__":
    main()
