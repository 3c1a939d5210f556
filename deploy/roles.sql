-- Run once, by the image of PostgreSQL, when its volume is new. The service's role owns its database
-- and is no superuser. The superuser is left to who is on the machine:
--   docker compose -f deploy/compose.yaml exec postgres psql --username=postgres julienne
\getenv password POSTGRES_PASSWORD
CREATE ROLE julienne LOGIN PASSWORD :'password';
CREATE DATABASE julienne OWNER julienne;
ALTER ROLE postgres PASSWORD NULL;
