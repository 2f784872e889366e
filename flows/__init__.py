"""When and where stages run: Prefect flows, deployments and the command line."""
