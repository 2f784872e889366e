"""Every performance claim as a program that measures it against its reference in one run."""
