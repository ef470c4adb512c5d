"""Types and errors of the Open Inference Protocol, shared by the server, the load test and deployment."""
