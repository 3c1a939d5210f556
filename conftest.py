import os

# Tests bring their own settings and database; none of the developer's may reach them.
for variable in [name for name in os.environ if name.startswith("APP_")]:
    del os.environ[variable]

pytest_plugins = ["kernel.testing"]
