"""Authorities and certificates for tests, made by `openssl` in a moment."""

from __future__ import annotations

import subprocess
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CURVE: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_EXPIRED: Final = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
_SETTINGS: Final = """
[ca]
default_ca = here
[here]
database = issued.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificate:
    """PEM files: the certificate, its key, and both in one."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates, of this and of past years."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        (self._folder / "openssl.cnf").write_text(_SETTINGS)
        (self._folder / "issued.txt").touch()
        self._openssl("req", "-x509", *_CURVE, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}", "-days", "30")
        self.file = self._folder / "ca.pem"

    def issue(self, name: str, *, hosts: str = "IP:127.0.0.1,DNS:localhost", expired: bool = False) -> Certificate:
        """A certificate for `CN=name` that is good for `hosts`."""
        self._openssl("req", *_CURVE, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self._folder / f"{name}.ext").write_text(f"subjectAltName={hosts}\n")
        period = _EXPIRED if expired else ("-days", "30")
        self._openssl(
            *("ca", "-batch", "-notext", "-config", "openssl.cnf", "-cert", "ca.pem", "-keyfile", "ca.key"),
            *("-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", f"{name}.ext", *period),
        )
        made = Certificate(*(self._folder / f"{name}.{ending}" for ending in ("crt", "key", "pem")))
        made.both.write_text(made.key.read_text() + made.certificate.read_text())
        return made

    def lock(self, certificate: Certificate, password: str) -> Path:
        """The key of a certificate, encrypted."""
        locked = certificate.key.with_suffix(".locked")
        self._openssl("pkcs8", "-topk8", "-in", certificate.key, "-out", locked, "-passout", f"pass:{password}")
        return locked

    def _openssl(self, *words: str | Path) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)


class SigningKey:
    """Signs tokens by RS256, and shows how to check them."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tokens.key"
        subprocess.run(["openssl", "genrsa", "-out", self._file, "2048"], check=True, capture_output=True)

    def sign(self, text: bytes) -> bytes:
        return subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._file], input=text, check=True, capture_output=True
        ).stdout

    def as_web_key(self) -> dict[str, str]:
        """The public half, as RFC 7517 writes it."""
        said = subprocess.run(
            ["openssl", "rsa", "-in", self._file, "-noout", "-modulus"], check=True, capture_output=True, text=True
        )
        modulus = bytes.fromhex(said.stdout.strip().removeprefix("Modulus="))
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": web_text(modulus), "e": web_text(b"\x01\x00\x01")}


def web_text(data: bytes) -> str:
    """base64url without padding, as RFC 7515 writes it."""
    return urlsafe_b64encode(data).rstrip(b"=").decode()
