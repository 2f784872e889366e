"""The demo: its data, its corpus, and the run that chains them through the release flow."""
