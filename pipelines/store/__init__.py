"""The store: git and DVC behind a registry. Nothing else in Weighbridge calls either.

`git` and `dvc` run the two programs; `registry` knows the layout; `workspace` is a disposable
clone in which stages run; `integrity` re-hashes what DVC hands out; `remote` tries and
asks a DVC remote; `tags` reads and writes releases in GTO's form. `referrers`, `survey`,
`retention` and `collection` say what the machine's store keeps and remove what may go.
"""
