"""What Flower runs on a client's machine, in a new process for each message."""

from deploy.flower import client_app

app = client_app()
