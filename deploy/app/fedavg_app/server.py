"""What Flower runs on the server."""

from deploy.flower import server_app

app = server_app()
