"""Makes vectors.json: tokens and keys of PyJWT (pip install pyjwt cryptography). Run: python vectors.py > vectors.json"""

import json

import jwt
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

NOW_S = 1_800_000_000
SECRET = "a secret of PyJWT, made for a test, 0123456789"


def vectors():
    keys = [
        ("ES256", ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
        ("RS256", rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    ]
    claims = {"app": "shop", "exp": NOW_S + 600, "iat": NOW_S, "nbf": NOW_S, "iss": "https://login.example"}
    forms = [
        {**claims, "account": "алиса", "aud": "moor"},
        {**claims, "sub": "алиса", "aud": ["moor", "web"], "devices": ["desktop", "phone"], "exp": NOW_S + 600.5},
    ]
    for form in forms:
        token = jwt.encode(form, SECRET, "HS256", headers={"kid": "k"})
        yield {"alg": "HS256", "key": SECRET, "jwk": json.loads(HMACAlgorithm.to_jwk(SECRET)), "token": token}
        for alg, private, kind in keys:
            public = private.public_key()
            pem = public.public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo).decode()
            yield {
                "alg": alg,
                "key": pem,
                "jwk": json.loads(kind.to_jwk(public)),
                "token": jwt.encode(form, private, alg),
            }


print(json.dumps(list(vectors()), indent=1))
