"""Where weights come from: one file a source, each with `resolve` and `fetch`."""
