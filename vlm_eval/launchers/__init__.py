"""Runs on other machines than the one where the command is typed; on this one: vlm_eval.scheduling."""
