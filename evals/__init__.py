"""What counts as good: suites, tasks, gate policy and its statistics.

suites      suites (what one is), suite_* (listing, writing from a table), suites/ (shipped)
evaluation  scoring (the stage), suite_runs, lm_eval_child, engines, packed, blocks and
            block_store (what is not run again), outcomes, items, evaluation_report
scorers     scorers, answer_rules, answer_scoring; code_execution* (a sandbox for programs)
checks      contamination, training_sets, parity, drift
the gate    gate (the stage), policy, evidence, pairing, comparison, judgement, slices,
            requirements, gate_report; statistics, resampling, power; costs, cost_measurement
offline     sample_folders, sample_metrics, sample_results (lm-eval's own files), flips
"""
