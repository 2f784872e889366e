"""What each stage does: plain Python from a config and paths to a record.

Nothing here knows Prefect; `flows` decides when and where a stage runs.
"""
