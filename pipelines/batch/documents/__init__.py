"""Documents: where they lie, and how each format becomes text or a reason why there is none.

`document` says what a document is. `files` and `bucket` find and open files in a folder or under an
S3 prefix; `compression` opens .gz and .zst. `whole` makes a document of a file (text, HTML, and PDF
and Word through `extraction`, in a process of its own); `lines`, `csv_rows` and `parquet_rows` make
one of each row of a table, and `columns` and `requests` say what a row means.
"""
