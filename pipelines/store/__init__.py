"""The store: git and DVC behind a registry. Nothing else in Weighbridge calls either.

`git` and `dvc` run the two programs; `registry` knows the layout; `workspace` is a disposable
clone in which stages run; `integrity` re-hashes what DVC hands out; `tags` reads and writes
releases in GTO's form. `objects` is the machine's content store (DVC's cache), which `receiving`
fills in one pass, `ledger` remembers and `told` tells DVC of. `remote` tries and asks a DVC remote;
`bucket_push` and `bucket_pull` move objects to and from S3. `referrers`, `survey`, `retention` and
`collection` say what the store keeps and remove what may go.
"""
