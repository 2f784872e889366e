"""Reading signatures over models: OpenSSF Model Signing bundles, judged offline.

A bundle is a Sigstore bundle v0.3 around a DSSE envelope around an in-toto statement with the
predicate `https://model_signing/signature/v1.0`. Three things are checked apart from each other:
its form (`bundle`), who signed (`publishers`, with `certificates` and `keyless`), and what was
signed (`statement`), always against digests of files that we listed and hashed ourselves.
"""
