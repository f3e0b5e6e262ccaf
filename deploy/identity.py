"""Certificates and keys: the server's, by which clients know it, and each client's, by which it knows them.

    python3 -m deploy.identity server FOLDER --host fl.example.org     ca.crt, server.crt, server.key
    python3 -m deploy.identity node FOLDER                             node.key, node.pub

Keys are ECDSA over P-384, as Flower asks. Private keys are readable by their owner alone, and never leave the machine
on which they are made. The key of the certificate authority is thrown away once it has signed, so that nobody can make
another server's certificate with it; a new server has a new authority.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LEEWAY = timedelta(minutes=5)  # that another machine's clock may be behind


def server(folder: Path, hosts: list[str], days: float = 365.0) -> None:
    """A certificate for these host names and addresses, signed by an authority made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = datetime.now(timezone.utc) - LEEWAY
    end = begin + LEEWAY + timedelta(days=days)
    authority, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = _name("Federated averaging")

    def builder(subject: x509.Name, of: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(of.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    ca = (
        builder(issuer, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(False, False, False, False, False, True, False, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA384())
    )
    certificate = (
        builder(_name(hosts[0]), key)
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA384())
    )
    # The key comes first: if there is one already, its certificates stay, too.
    secret(folder / "server.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "ca.crt").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def node(folder: Path) -> str:
    """A client's key pair; returns the line of its public key, which the server's operator must get."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    secret(folder / "node.key", key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (folder / "node.pub").write_text(f"{line}\n")
    return line


def secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read. Raises FileExistsError: a key in use is not replaced."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.identity", description="Make certificates and keys.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("server", "node"):
        one = kinds.add_parser(kind)
        one.add_argument("folder", type=Path, help="where the files are written")
        if kind == "server":
            one.add_argument("--host", action="append", required=True, help="name or address that clients connect to")
            one.add_argument("--days", type=float, default=365.0, help="for which the certificate is good")
    words = parser.parse_args()
    try:
        if words.kind == "server":
            server(words.folder, words.host, words.days)
        else:
            print(node(words.folder))
    except FileExistsError as error:
        parser.exit(2, f"{error.filename}: is there already; a key that is in use is not replaced\n")
    except OSError as error:
        parser.exit(2, f"{error.filename}: {error.strerror}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
