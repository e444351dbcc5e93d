"""The mirror: every job as one run in MLflow, for whoever watches trainings there. It repeats what the log says and hinders none.

plan, progress  ->  notes on disk  ->  mirror, in the background  ->  MLflow's REST API
the log's result, the store's evidence  ------------^

translate.py   what MLflow is told, made of plan, progress and result; pure
notes.py       what is still to be told of a job, on disk until its run has ended
mlflow.py      the tracking server, by its REST API 2.0
log_in.py      as whom, and over what
mirror.py      tells: when the server is away, later
"""
