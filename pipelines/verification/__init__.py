"""The checks of `pipelines.verify`: each module states one kind of fact about a model folder.

A check is a function from what was read (`contents.Contents`) to findings. To add one, write a
module with a `check` function and name it in `pipelines.verify.CHECKS`. No check loads weights,
imports code or touches the network.
"""
