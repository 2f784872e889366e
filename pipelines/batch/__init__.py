"""Batch inference: a corpus in, one row per chunk of every document out, each with its provenance.

One file a verb: `plan` fixes the input order, `worker` generates, `manifest` closes the job, `run`
does all three, `status` and `export` read the result. An output location, a folder or an S3 prefix,
holds

    job.json                  the plan, a `JobPlan`, written once
    plan/JOB/shard-*.parquet  the rows of each shard in their fixed order
    shards/shard-*.parquet    the committed results: one object per shard, by conditional create
    manifest.json             a `BatchManifest`, written last; without it the job is not done
    report.html, report.md    for people: what came out; run.json: how long it took
    cancel.json, workers/     while it runs: that it was cancelled, what each worker has spent
    recall/, superseded/      rows of a revoked model that are being replaced; manifests from before
    journal/                  completed rows of shards that are not committed (folders only;
                              beside an S3 output the journal lies on the worker's own disk)

Where things are:

    what a job says     job, settings, corpus_settings; limits, destinations
    what is read        corpus, documents/, text; openai lines: line_requests, own_request
    the plan            plan, listing, identity, sizing, duplicates, combining, prompt,
                        output_schema, grammar, tokens; dry_run, throughput (estimates); taking_up,
                        unchanged (a plan again)
    the engines         engine (what one is), engine_choice, vllm_engine, transformers_engine,
                        pooling, gpus, adapter_release
    the work            run, worker, feed, reduction, answer; recovery and in_flight (an engine
                        that dies), watch, usage, cancel
    what is committed   store, s3_store, egress, redaction; shard, journal, committer, committed,
                        rows, copies, manifest; layout
    afterwards          finished, status, export, openai_results, report, report_page, survey,
                        row_checks, publishing, shadow; stale, recall, job_index (revoked models)
"""
