"""The ruminate command: demo, up, down, status, publish, tail, resume, doctor."""
