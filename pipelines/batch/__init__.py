"""Batch inference: a corpus in, one row per chunk of every document out, each with its provenance.

One file a verb: `plan` fixes the input order, `worker` generates, `manifest` closes the job, `run`
does all three, `status` and `export` read the result. An output location, a folder or an S3 prefix,
holds

    job.json                  the plan, a `JobPlan`, written once
    plan/JOB/shard-*.parquet  the rows of each shard in their fixed order
    shards/shard-*.parquet    the committed results: one object per shard, by conditional create
    manifest.json             a `BatchManifest`, written last; without it the job is not done
    report.md, run.json       for people: what came out, and how long it took
    cancel.json, workers/     while it runs: that it was cancelled, what each worker has spent
    recall/, superseded/      rows of a revoked model that are being replaced; manifests from before
    journal/                  completed rows of shards that are not committed (folders only;
                              beside an S3 output the journal lies on the worker's own disk)
"""
