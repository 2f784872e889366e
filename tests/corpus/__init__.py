"""Honest and tampered model repositories, made from seeds: what `weighbridge verify` is judged on."""
