"""The store: git and DVC behind a registry. Nothing else in Weighbridge calls either.

`git` and `dvc` run the two programs; `registry` knows the layout; `workspace` is a disposable
clone in which stages run; `integrity` re-hashes what DVC hands out; `tags` reads and writes
releases in GTO's form.
"""
