"""Honest and tampered model repositories, made from seeds: what verification is judged on."""
